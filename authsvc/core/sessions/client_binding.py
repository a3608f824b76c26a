"""Owns the binding of sessions to the address and user agent that they were opened with."""

from ipaddress import IPv4Address, IPv6Address, ip_address

from authsvc.config import SessionSettings
from authsvc.models.calls import ClientContext
from authsvc.models.tokens import InactiveReason

_SUBNET_HOST_BITS = {4: 8, 6: 64}


class ClientBinding:
    """Says whether a session may be used from where a request came.

    A session opened without an address (or user agent) is not bound to one; a bound one can't be
    used without.
    """

    def __init__(self, settings: SessionSettings) -> None:
        self._host_bits = _SUBNET_HOST_BITS if settings.ip_binding == "subnet" else {4: 0, 6: 0}
        self._binds_ip = settings.ip_binding != "off"
        self._binds_user_agent = settings.user_agent_binding
        self.is_on = self._binds_ip or self._binds_user_agent

    def mismatch(self, opened: ClientContext, used: ClientContext) -> InactiveReason | None:
        """Return why a session opened by the one client can't be used by the other; None: it can.

        Addresses are the same if equal, or in the same /24 (IPv4) or /64 (IPv6) as the settings
        have it. An IPv4 address mapped into IPv6 is the IPv4 address (RFC 4291, 2.5.5.2).
        """
        if self._binds_ip and opened.ip and not self._is_same_network(opened.ip, used.ip):
            return InactiveReason.IP_MISMATCH
        if self._binds_user_agent and opened.user_agent not in {"", used.user_agent}:
            return InactiveReason.USER_AGENT_MISMATCH
        return None

    def _is_same_network(self, opened: str, used: str | None) -> bool:
        if opened == used:
            return True
        first, second = _parse(opened), _parse(used or "")
        if first is None or second is None or first.version != second.version:
            return False
        return (int(first) ^ int(second)) >> self._host_bits[first.version] == 0


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
