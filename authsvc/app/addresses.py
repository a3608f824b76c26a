"""Owns the addresses that the service listens on."""

from authsvc.errors import ServerError


def with_port(address: str, port: int) -> str:
    """Return a listen address with the actual port in place of port 0."""
    return f"{address[:-1]}{port}" if address.endswith(":0") else address


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of "host:port", "[::1]:port" or ":port" (every interface).

    Raises:
        ServerError: The address has none of these forms.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdigit() or int(port) > 65_535:
        raise ServerError(f'"{address}" is not a valid address; expected "host:port"')
    return host or "::", int(port)
