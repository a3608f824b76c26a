"""Owns the binding of sessions to the IP address and user agent that opened them."""

from ipaddress import IPv4Address, IPv6Address, ip_address

from authsvc.config import SessionSettings
from authsvc.models.calls import ClientContext
from authsvc.models.sessions import Session
from authsvc.models.tokens import InactiveReason

_SUBNET_HOST_BITS = {4: 8, 6: 64}


class ClientBinding:
    """Decides whether a session may be used by the client of a request.

    A session opened without an address (or user agent) is not bound to one; one that is bound can't
    be used without it. A dual-stack client changes between IPv4 and IPv6, so a session is bound to
    an address of each family, once the user has logged in over both on the same device. The second
    address is never learned from use: a thief could come over the family that isn't known yet.
    """

    def __init__(self, settings: SessionSettings) -> None:
        self._host_bits = _SUBNET_HOST_BITS if settings.ip_binding == "subnet" else {4: 0, 6: 0}
        self._binds_ip = settings.ip_binding != "off"
        self._binds_user_agent = settings.user_agent_binding
        self.is_on = self._binds_ip or self._binds_user_agent

    def mismatch(self, session: Session, used: ClientContext) -> InactiveReason | None:
        """Return why client `used` can't use a session, or None if it can.

        Addresses match if they are equal or, with the setting `subnet`, in the same /24 (IPv4) or
        /64 (IPv6). An IPv4-mapped IPv6 address counts as the IPv4 address (RFC 4291, 2.5.5.2).
        """
        opened = session.client
        if (
            self._binds_ip
            and opened.ip
            and not self._is_known(opened.ip, session.other_ip, used.ip)
        ):
            return InactiveReason.IP_MISMATCH
        if self._binds_user_agent and opened.user_agent not in {"", used.user_agent}:
            return InactiveReason.USER_AGENT_MISMATCH
        return None

    def _is_known(self, opened: str, other: str | None, used: str | None) -> bool:
        return self._is_same_network(opened, used) or (
            other is not None and self._is_same_network(other, used)
        )

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
