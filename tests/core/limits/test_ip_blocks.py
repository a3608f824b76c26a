"""The blocks in memory: what contains an address, compared with a plain search."""

import random
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.limits.ip_blocks import IpBlocks
from authsvc.models.ip_blocks import Network

END = 4_000_000_000.0


def _networks(bits: int) -> st.SearchStrategy[Network]:
    # Few addresses, so that networks contain one another.
    values = st.sampled_from([n << (bits - 8) | m for n in range(4) for m in range(4)])
    lengths = st.sampled_from([0, 1, 6, 7, 8, bits - 2, bits - 1, bits])
    kind, address = (IPv4Network, IPv4Address) if bits == 32 else (IPv6Network, IPv6Address)
    return st.builds(
        lambda value, length: kind((address(value), length), strict=False), values, lengths
    )


def _built(networks: Iterable[Network]) -> IpBlocks:
    blocks = IpBlocks()
    ordered = sorted(networks, key=lambda n: (n.version, int(n.network_address), n.prefixlen))
    for number, network in enumerate(ordered):
        blocks.append(str(network), END + number)
    return blocks


_ANY = st.one_of(_networks(32), _networks(128))


@given(st.sets(_ANY, max_size=12), st.lists(st.tuples(_ANY, st.sampled_from([0.0, END, END + 50]))))
def test_end_is_the_latest_of_all_blocks_around_an_address(
    built: set[Network], changes: list[tuple[Network, float]]
) -> None:
    blocks = _built(built)
    ordered = sorted(built, key=lambda n: (n.version, int(n.network_address), n.prefixlen))
    ends = {network: END + number for number, network in enumerate(ordered)}
    for network, end in changes:
        blocks.put(str(network), end)
        ends[network] = end
    assert len(blocks) == len(ends)
    probes = {n.network_address for n in ends} | {n.broadcast_address for n in ends}
    for probe in probes:
        around = [end for network, end in ends.items() if probe in network]
        assert blocks.end_of(str(probe)) == max(around, default=0.0)


@pytest.mark.fast
def test_lifted_block_leaves_those_around_it() -> None:
    blocks = IpBlocks()
    for network in ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32"):
        blocks.append(network, END)
    blocks.put("10.1.2.3/32", 1.0)
    blocks.put("10.0.0.0/8", 1.0)
    assert blocks.end_of("10.1.2.3") == END
    assert blocks.end_of("10.2.0.1") == 1.0
    assert blocks.end_of("11.0.0.1") == 0.0
    assert len(blocks) == 3
    assert blocks.added == 0


@pytest.mark.fast
def test_families_are_apart() -> None:
    blocks = IpBlocks()
    blocks.put("::/0", END)
    assert blocks.end_of("0.0.0.1") == 0.0
    assert blocks.end_of("::1") == END
    blocks.put("0.0.0.0/0", END)
    assert blocks.end_of("255.255.255.255") == END


def test_block_of_a_hundred_thousand_takes_little_memory() -> None:
    chosen = random.Random(7)
    numbers = sorted(chosen.sample(range(1 << 32), 100_000))
    blocks = IpBlocks()
    for number in numbers:
        blocks.append(f"{ip_address(number)}/32", END)
    for bits, family in ((32, blocks._ipv4), (128, blocks._ipv6)):
        arrays = (family._tops, family._lows, family._lengths, family._ends, family._parents)
        # 17 or 29 bytes for each block, and what arrays hold in reserve.
        size = sum(array.itemsize * len(array) for array in arrays)
        assert size <= len(family) * (17 if bits == 32 else 29)
    for number in chosen.sample(numbers, 100):
        assert blocks.end_of(str(ip_address(number))) == END
        assert blocks.end_of(str(ip_address(number ^ 1))) in {0.0, END}
    assert ip_network("0.0.0.0/0").num_addresses > len(blocks) == 100_000
