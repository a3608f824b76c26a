"""Owns the reading of networks that operators write."""

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network

_MAPPED = IPv6Network("::ffff:0:0/96")


def parse_network(text: str) -> str:
    """Return a network in CIDR notation, or an address as the network of it alone.

    Mapped IPv4 (RFC 4291, 2.5.5.2) becomes IPv4.

    Raises:
        ValueError: It is neither, or bits beyond the prefix are set.
    """
    if not text.isascii() or "%" in text:
        raise ValueError("neither an address nor a network")
    return str(unmapped(ip_network(text)))


def unmapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """Return a network of mapped IPv4 as the one of IPv4, as addresses are kept; others as is."""
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        first = int(network.network_address) & 0xFFFF_FFFF
        return IPv4Network((IPv4Address(first), network.prefixlen - 96))
    return network
