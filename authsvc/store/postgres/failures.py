"""Owns the words for a failure of the database: one line for the operator, without a secret."""

import socket
import ssl
from collections.abc import Mapping

import asyncpg

from authsvc.errors import ServiceError

_TEXTS: Mapping[type[BaseException], str] = {
    socket.gaierror: "the host's name can't be resolved{host}",
    ConnectionRefusedError: "the connection was refused{host}; does a server listen there?",
    FileNotFoundError: "no server listens on this socket{host}",
    TimeoutError: "no answer in time{host}",
    asyncpg.ConnectionDoesNotExistError: "the server closed the connection",
}


def describe(error: BaseException | None, *, host: bool = True) -> str:
    """Return why the database can't be used: one line in words, never empty.

    With `host`, it names the one that a connection failed to, of which `Connector` makes a note.
    """
    if isinstance(error, ServiceError):
        return error.message if error.__cause__ is None else describe(error.__cause__, host=host)
    notes = getattr(error, "__notes__", ()) if host else ()
    where = f" ({notes[0]})" if notes else ""
    for kind, text in _TEXTS.items():
        if isinstance(error, kind):
            return text.format(host=where)
    detail = _one_line(_detail(error)) or f"unexpected failure ({type(error).__name__})"
    return f"{detail}{where}"


def _detail(error: BaseException | None) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"the server's certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"the TLS handshake failed: {error.reason or error}"
        case OSError():
            text = error.strerror or str(error)
            # asyncpg's words for a server that closes the connection instead of answering.
            return "the server closed the connection" if "connection_lost()" in text else text
        case asyncpg.PostgresError():
            # Its text goes on with details and hints in lines of their own.
            return str(error).partition("\n")[0]
        case _:
            # Others may quote the address with its password.
            return ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
