"""Owns the reading of what a request proves itself with: its bearer token and its certificate."""

import ssl
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from authsvc.client.guards.refusals import INVALID_TOKEN, NO_CREDENTIALS, Refused

_MAX_TOKEN = 8192

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]


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


def token_of(metadata: Metadata, entries: Mapping[str, str | bytes]) -> str:
    """Return the token in a call's metadata.

    Args:
        metadata: All of it.
        entries: The same, with the last value of each key.

    Raises:
        Refused: There is none, or it can't be one.
    """
    if len(entries) == len(metadata):
        given = entries.get("authorization")
        found = [] if given is None else [str(given)]
    else:
        found = [str(value) for key, value in metadata if key == "authorization"]
    token = bearer_token(found)
    if not token:
        raise Refused(NO_CREDENTIALS)
    return token


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
