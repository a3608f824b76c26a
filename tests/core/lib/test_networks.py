"""Networks as operators write them."""

import pytest

from authsvc.core.lib.networks import parse_network


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.1", "192.0.2.1/32"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::/0", "::/0"),
    ],
)
def test_addresses_and_networks_are_read(text: str, network: str) -> None:
    assert parse_network(text) == network


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "192.0.2.1/24",
        "192.0.2.0/33",
        "192.0.2",
        "fe80::1%eth0",
        "192.0.2.1 ",
        "\uff11.0.0.1",
    ],
)
def test_anything_else_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_network(text)
