"""Owns the question to the service about a token, and the reading of its answer."""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from authsvc.client.errors import TokenRejected
from authsvc.client.identity import Identity
from authsvc.v1.auth_service_pb2 import ValidateTokenRequest, ValidateTokenResponse
from authsvc.v1.common_pb2 import Claims, InactiveReason


def question(
    token: str,
    audience: str,
    scopes: Iterable[str],
    min_cursor: str,
    certificate: bytes | None,
) -> ValidateTokenRequest:
    """Return the question whether a token is to be accepted."""
    return ValidateTokenRequest(
        access_token=token,
        audience=audience,
        required_scopes=scopes,
        min_cursor=min_cursor,
        certificate_thumbprint=hashlib.sha256(certificate).digest() if certificate else b"",
    )


def answer(response: ValidateTokenResponse, issuer: str, key_id: str) -> Identity:
    """Return the identity that the service vouches for.

    Raises:
        TokenRejected: The service refuses the token.
    """
    if not response.active:
        name = InactiveReason.Name(response.inactive_reason)
        raise TokenRejected(name.removeprefix("INACTIVE_REASON_"))
    if response.claims.issuer != issuer:
        raise TokenRejected("ISSUER_MISMATCH")
    return _identity(response.claims, key_id)


def _identity(claims: Claims, key_id: str) -> Identity:
    is_user = bool(claims.session_id)
    return Identity(
        kind="user" if is_user else "service",
        subject=claims.subject,
        user_id=claims.subject if is_user else "",
        service="" if is_user else claims.subject,
        session_id=claims.session_id,
        roles=tuple(claims.roles),
        permissions=tuple(claims.permissions),
        scopes=frozenset(claims.scopes),
        authentication_methods=tuple(claims.authentication_methods),
        authentication_time=_time(claims.authentication_time) if is_user else None,
        issue_time=_time(claims.issue_time),
        expire_time=_time(claims.expire_time),
        actors=tuple(claims.actors),
        audiences=tuple(claims.audiences),
        token_id=claims.token_id,
        key_id=key_id,
        is_bound=bool(claims.certificate_thumbprint),
    )


def _time(value: Timestamp) -> datetime:
    return value.ToDatetime(UTC)
