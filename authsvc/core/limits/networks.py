"""Owns networks of clients: which one an address is counted under, and lists of them."""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

from authsvc.config import BruteForceSettings
from authsvc.core.lib.networks import unmapped
from authsvc.core.limits.ip_blocks import IpBlocks
from authsvc.models.ip_blocks import Network


def client_network(ip: str | None, settings: BruteForceSettings) -> str | None:
    """Return the network that a client's ip is counted under, or None without an ip."""
    return None if ip is None else _network(ip, settings.ipv4_prefix, settings.ipv6_prefix)


# An attempt asks several times, and parsing takes a tenth of a millisecond.
@lru_cache(maxsize=1_024)
def _network(ip: str, ipv4_prefix: int, ipv6_prefix: int) -> str:
    address = ip_address(ip)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    prefix = ipv4_prefix if address.version == 4 else ipv6_prefix
    return str(ip_network((address, prefix), strict=False))


class Networks:
    """Networks that are looked up by address."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(map(unmapped, networks))
        self._table = IpBlocks()
        for network in self._networks:
            self._table.put(str(network), 1.0)

    def contain(self, address: str) -> bool:
        """Return whether a canonical address is in one of the networks."""
        return bool(self._networks) and self._table.end_of(address) > 0

    def contain_all_of(self, network: Network) -> bool:
        """Return whether one of the networks contains all addresses of another."""
        return any(
            network.version == each.version and network.subnet_of(each)  # type: ignore[arg-type] # of one version
            for each in self._networks
        )
