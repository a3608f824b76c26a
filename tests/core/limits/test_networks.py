"""Networks: which one a client is counted under, and what a list of them contains."""

from ipaddress import ip_network

import pytest

from authsvc.config import BlockSettings, BruteForceSettings
from authsvc.core.limits.networks import Networks, client_network

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("ip", "network"),
    [
        ("192.0.2.1", "192.0.2.0/24"),
        ("::ffff:192.0.2.1", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/48"),
        (None, None),
    ],
)
def test_client_is_counted_under_its_network(ip: str | None, network: str | None) -> None:
    settings = BruteForceSettings(ipv4_prefix=24, ipv6_prefix=48)
    assert client_network(ip, settings) == network


def test_list_contains_addresses_and_parts_of_its_networks() -> None:
    networks = Networks(map(ip_network, ["192.0.2.0/24", "2001:db8::/32"]))
    assert networks.contain("192.0.2.255")
    assert networks.contain("2001:db8:ffff::1")
    assert not networks.contain("192.0.3.0")
    assert not networks.contain("2001:db9::")
    assert networks.contain_all_of(ip_network("192.0.2.128/25"))
    assert not networks.contain_all_of(ip_network("192.0.2.0/23"))
    assert not networks.contain_all_of(ip_network("::/0"))
    assert not Networks([]).contain("192.0.2.1")


def test_list_takes_mapped_ipv4_for_ipv4() -> None:
    networks = Networks([ip_network("::ffff:192.0.2.0/120")])
    assert networks.contain("192.0.2.7")
    assert networks.contain_all_of(ip_network("192.0.2.7"))


def test_settings_take_addresses_and_networks_of_both_families() -> None:
    settings = BlockSettings.model_validate({"allow": ["192.0.2.7", "10.1.2.3/8", "2001:db8::/32"]})
    assert set(map(str, settings.allowed_networks())) == {
        "192.0.2.7/32",
        "10.0.0.0/8",
        "2001:db8::/32",
    }


@pytest.mark.parametrize(
    "text", ["", "example.com", "192.0.2.0/33", "2001:db8::/129", "192.0.2", "10.0.0.0/8 ", "::/"]
)
def test_settings_refuse_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match="network"):
        BlockSettings.model_validate({"allow": [text]})
