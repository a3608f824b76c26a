"""Owns the reading of what a request proves itself with: its bearer token and its certificate."""

import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from authsvc.client.guards.refusals import INVALID_TOKEN, NO_CREDENTIALS, Refused

_MAX_TOKEN = 8192

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]


def bearer_token(authorizations: Sequence[str]) -> str:
    """Return the token of the Authorization headers, or "" if there is none.

    Another scheme than Bearer is not for the guard. It is not said which of two is meant, so both
    are refused.

    Raises:
        Refused: It can't be a token.
    """
    if not authorizations:
        return ""
    if len(authorizations) > 1:
        raise Refused(INVALID_TOKEN)
    scheme, _, token = authorizations[0].partition(" ")
    if scheme.lower() != "bearer":
        return ""
    token = token.strip(" ")
    if not token or len(token) > _MAX_TOKEN:
        raise Refused(INVALID_TOKEN)
    return token


def token_of(metadata: Metadata | None) -> str:
    """Return the token in a call's metadata.

    Raises:
        Refused: There is none, or it can't be one.
    """
    token = bearer_token([str(value) for key, value in metadata or () if key == "authorization"])
    if not token:
        raise Refused(NO_CREDENTIALS)
    return token


def text_of(metadata: Metadata | None) -> Callable[[str], str]:
    """Return a function that returns the value of a text entry, or ""."""
    entries = {key: value for key, value in metadata or () if isinstance(value, str)}
    return lambda name: entries.get(name, "")


def peer_certificate(auth_context: Mapping[str, Any]) -> bytes | None:
    """Return the client certificate of a gRPC connection in DER form, if there is one."""
    for pem in auth_context.get("x509_pem_cert", ()):
        return der_of(pem)
    return None


@lru_cache(maxsize=256)
def der_of(pem: bytes | str) -> bytes | None:
    """Return the DER form of a certificate in PEM; None for anything else."""
    try:
        return ssl.PEM_cert_to_DER_cert(pem.decode() if isinstance(pem, bytes) else pem)
    except ValueError:
        return None
