"""Owns handshakes with a TLS port, made only to see which certificate it presents."""

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress

from authsvc.app.addresses import split_address, unix_path

_CLOSING = 5.0


async def presented_certificate(address: str, patience: float = 5.0) -> bytes:
    """Return the certificate (DER) that the port at `address` presents, without verifying it.

    `address` is one that a server listens on or a client connects to: `host:port`, or `unix:` and a
    path. If it means every interface, the loopback interface is used.

    Raises:
        OSError: There is no connection, or no answer within `patience` seconds.
        ssl.SSLError: The handshake failed.
        ServerError: The address is invalid.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    # In earlier versions, a server that requires a client certificate ends the handshake without.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(patience):
            _, writer = await _connect(address, context)
    except TimeoutError:
        raise TimeoutError(f"{address} did not answer within {patience:g} s") from None
    presented: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with suppress(OSError):
        # When this returns, the server counts the connection no more.
        await writer.wait_closed()
    return presented


async def _connect(
    address: str, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if (path := unix_path(address)) is not None:
        return await asyncio.open_unix_connection(
            path, ssl=context, server_hostname="", ssl_shutdown_timeout=_CLOSING
        )
    host, port = split_address(address)
    *others, last = _reachable(host)
    for candidate in others:
        try:
            return await asyncio.open_connection(
                candidate, port, ssl=context, ssl_shutdown_timeout=_CLOSING
            )
        except ConnectionError:
            continue
    return await asyncio.open_connection(last, port, ssl=context, ssl_shutdown_timeout=_CLOSING)


def _reachable(host: str) -> Sequence[str]:
    """Return hosts to connect to for a host to listen on."""
    match host:
        case "::":
            return "::1", "127.0.0.1"
        case "0.0.0.0":  # noqa: S104 - it is recognized, not listened on
            return ("127.0.0.1",)
        case _:
            return (host,)
