"""Owns the way between messages and domain values: every field is parsed into its type or refused.

Parsers take the value and the field's path and raise FieldInvalid with that path.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from ipaddress import ip_address
from math import ceil
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from authsvc.errors import FieldInvalid
from authsvc.models.calls import ClientContext
from authsvc.models.ids import SessionId, UserId
from authsvc.models.sessions import RevokeReason, Session
from authsvc.models.tokens import Claims, InactiveReason, ServiceClaims, Tokens
from authsvc.v1 import common_pb2, session_service_pb2

MAX_BATCH = 1_000
DEFAULT_PAGE = 50

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_METHOD = re.compile(r"[a-z0-9-]{1,32}", re.ASCII)


def text(value: str, field: str, max_bytes: int, *, required: bool = False) -> str:
    """Return `value` if it holds at most `max_bytes` of UTF-8 and no NUL."""
    if required and not value:
        raise FieldInvalid(field, "must not be empty")
    if len(value) > max_bytes or (len(value) * 4 > max_bytes and len(value.encode()) > max_bytes):
        raise FieldInvalid(field, f"must be at most {max_bytes} bytes")
    if "\0" in value:
        raise FieldInvalid(field, "must not contain NUL")
    return value


def token(value: str, field: str) -> str:
    """Return `value` as it came, unless it is empty.

    Whatever is wrong with an end user's token is an answer, not an error, or in a batch one user's
    garbage would take away the answers for all others.
    """
    if not value:
        raise FieldInvalid(field, "must not be empty")
    return value


def thumbprint(value: bytes, field: str) -> bytes:
    """Return a SHA-256, or b"" for none."""
    if value and len(value) != 32:
        raise FieldInvalid(field, "must be 32 bytes, or none")
    return value


def uuid(value: str, field: str) -> UUID:
    """Return the UUID written in `value` in its canonical lower-case form."""
    if not _UUID.fullmatch(value):
        raise FieldInvalid(field, "must be a UUID in lower case with hyphens")
    return UUID(value)


def user_id(value: str, field: str = "user_id") -> UserId:
    """Return the user id written in `value`."""
    return UserId(uuid(value, field))


def session_id(value: str, field: str = "session_id") -> SessionId:
    """Return the session id written in `value`."""
    return SessionId(uuid(value, field))


def page_size(value: int, field: str = "page_size") -> int:
    """Return how many items a page holds: 1 to 1000, and 50 for 0."""
    if not 0 <= value <= MAX_BATCH:
        raise FieldInvalid(field, f"must be from 0 to {MAX_BATCH}")
    return value or DEFAULT_PAGE


def batch_size(items: Sequence[object], field: str) -> None:
    """Refuse a batch that is empty or holds more than 1000 items."""
    if not 1 <= len(items) <= MAX_BATCH:
        raise FieldInvalid(field, f"must hold 1 to {MAX_BATCH} items")


def client_context(message: common_pb2.ClientContext, field: str = "client") -> ClientContext:
    """Return the end user's side of a request; the address in its canonical form."""
    return ClientContext(
        ip=_ip(message.ip, f"{field}.ip") if message.ip else None,
        user_agent=text(message.user_agent, f"{field}.user_agent", 1024),
        device_id=text(message.device_id, f"{field}.device_id", 256),
    )


def _ip(value: str, field: str) -> str:
    # A zone (fe80::1%eth0) names an interface of some other machine: meaningless here.
    if len(value) > 45 or "%" in value:
        raise FieldInvalid(field, "must be an IPv4 or IPv6 address")
    try:
        return str(ip_address(value))
    except ValueError:
        raise FieldInvalid(field, "must be an IPv4 or IPv6 address") from None


def authentication_methods(values: Sequence[str], field: str) -> tuple[str, ...]:
    """Return 1 to 8 RFC 8176 values, without repetition."""
    if not 1 <= len(values) <= 8:
        raise FieldInvalid(field, "must hold 1 to 8 items")
    for index, value in enumerate(values):
        if not _METHOD.fullmatch(value):
            raise FieldInvalid(
                f"{field}[{index}]", "must be 1 to 32 lower-case letters, digits and hyphens"
            )
    return tuple(dict.fromkeys(values))


def scopes(values: Sequence[str], field: str) -> Sequence[str]:
    """Return at most 64 scopes of at most 128 bytes."""
    if len(values) > 64:
        raise FieldInvalid(field, "must hold at most 64 items")
    for index, value in enumerate(values):
        text(value, f"{field}[{index}]", 128, required=True)
    return values


def timestamp(time: datetime) -> Timestamp:
    """Return an aware time as a message."""
    return Timestamp(seconds=int(time.timestamp()), nanos=time.microsecond * 1_000)


def duration(seconds: float) -> Duration:
    """Return a length of time as a message, to the microsecond, rounded up."""
    message = Duration()
    fill_duration(message, seconds)
    return message


def fill_duration(message: Duration, seconds: float) -> None:
    """Put a length of time into `message`, as `duration` does."""
    message.seconds, micros = divmod(ceil(seconds * 1_000_000), 1_000_000)
    message.nanos = micros * 1_000


def inactive_reason(
    reason: InactiveReason | None,
) -> common_pb2.InactiveReason.ValueType:
    """Return a reason's number in the API."""
    return _INACTIVE[reason] if reason else common_pb2.INACTIVE_REASON_UNSPECIFIED


def claims_message(claims: Claims | ServiceClaims) -> common_pb2.Claims:
    """Return what an access token says."""
    message = common_pb2.Claims(
        subject=str(claims.subject),
        issuer=claims.issuer,
        audiences=claims.audiences,
        expire_time=timestamp(claims.expire_time),
        issue_time=timestamp(claims.issue_time),
        not_before_time=timestamp(claims.not_before_time),
        token_id=claims.token_id,
        scopes=claims.scopes,
        certificate_thumbprint=claims.certificate_thumbprint,
        actors=claims.actors,
    )
    if isinstance(claims, Claims):
        message.session_id = str(claims.session_id)
        message.roles.extend(claims.roles)
        message.permissions.extend(claims.permissions)
        message.authentication_methods.extend(claims.authentication_methods)
        message.authentication_time.CopyFrom(timestamp(claims.authentication_time))
    return message


def tokens_message(tokens: Tokens) -> common_pb2.Tokens:
    """Return what a login gives."""
    return common_pb2.Tokens(
        access_token=tokens.access_token,
        access_token_expire_time=timestamp(tokens.access_token_expire_time),
        refresh_token=tokens.refresh_token,
        refresh_token_expire_time=timestamp(tokens.refresh_token_expire_time),
        session_id=str(tokens.session_id),
        session_token=tokens.session_token,
        csrf_token=tokens.csrf_token,
        user_id=str(tokens.user_id),
    )


def session_message(session: Session) -> session_service_pb2.Session:
    """Return a session without its secrets."""
    message = session_service_pb2.Session(
        session_id=str(session.session_id),
        user_id=str(session.user_id),
        create_time=timestamp(session.create_time),
        last_use_time=timestamp(session.last_use_time),
        idle_expire_time=timestamp(session.idle_expire_time),
        absolute_expire_time=timestamp(session.absolute_expire_time),
        ip=session.client.ip or "",
        user_agent=session.client.user_agent,
        device_id=session.client.device_id,
        authentication_methods=session.authentication_methods,
    )
    if session.revoke_time is not None and session.revoke_reason is not None:
        message.revoke_time.CopyFrom(timestamp(session.revoke_time))
        message.revoke_reason = _REVOKE[session.revoke_reason]
    return message


_INACTIVE = {
    reason: common_pb2.InactiveReason.Value(f"INACTIVE_REASON_{reason.name}")
    for reason in InactiveReason
}
_REVOKE = {
    reason: session_service_pb2.RevokeReason.Value(f"REVOKE_REASON_{reason.name}")
    for reason in RevokeReason
}
