"""Owns the reading of errors: what gRPC raises becomes an AuthsvcError (AIP-193)."""

import re
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

from authsvc.client.errors import (
    AuthsvcError,
    CertificateRefused,
    IpBlocked,
    Overloaded,
    ProviderUnavailable,
    ServiceTimeout,
    ServiceUnavailable,
    TooManyAttempts,
)

_DOMAIN = "authsvc"
_WITHOUT_REASON: dict[grpc.StatusCode, type[AuthsvcError]] = {
    grpc.StatusCode.UNAVAILABLE: ServiceUnavailable,
    # By the server's side: gRPC ends so what a replica had not begun when it was stopped.
    grpc.StatusCode.CANCELLED: ServiceUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: ServiceTimeout,
}
# What gRPC says when no connection can be made, and what that means.
_OTHER_NAME = "The certificate of authsvc is not for the name of the target, or `server_name`"
_NOT_ACCEPTED = {
    "CERTIFICATE_VERIFY_FAILED": "The certificate of authsvc is not valid by what is in `ca`",
    "Hostname Verification": _OTHER_NAME,
    "is not in peer certificate": _OTHER_NAME,  # of older versions
    "WRONG_VERSION_NUMBER": "What answers at the address of authsvc does not speak TLS",
}
# What gRPC says of a call that it could not send, as there is no connection.
_NOT_SENT = (
    "connections to all backends failing",
    "failed to connect to all addresses",
    "errors resolving ",
)
# It may also be stopping: nothing tells.
_CLOSED_EARLY = re.compile(r"last error: .*(Socket closed|Connection reset)")
_PERHAPS = "It is not there, or refuses the certificate of this client"


def to_error(failure: Any, *, repeatable: bool) -> AuthsvcError:
    """Return the error that a failed call means.

    Args:
        failure: The RpcError that gRPC raised, whose methods its base class has not.
        repeatable: Whether the call may be sent again although it may have taken effect.
    """
    code: grpc.StatusCode = failure.code()
    message: str = failure.details() or ""
    # Pairs, but with `keys` in some versions of grpc.aio, which `dict` would ask.
    trailers: dict[str, Any] = dict(iter(failure.trailing_metadata() or ()))
    info, retry, bad_request = ErrorInfo(), RetryInfo(), BadRequest()
    request = RequestInfo(request_id=trailers.get("x-request-id", ""))
    _read(trailers.get("grpc-status-details-bin", b""), info, retry, bad_request, request)
    error = _new_error(code, info, message)
    error.code = code
    error.request_id = request.request_id
    error.fields = [(each.field, each.description) for each in bad_request.field_violations]
    if retry.HasField("retry_delay"):
        error.retry_after = timedelta(
            seconds=retry.retry_delay.seconds, microseconds=retry.retry_delay.nanos // 1_000
        )
    error.without_effect = (
        error.metadata.get("effect") == "none"
        if error.reason
        else not trailers and _is_unsent(error, message)
    )
    error.is_retryable = _is_retryable(error, repeatable=repeatable)
    return error


def _is_unsent(error: AuthsvcError, message: str) -> bool:
    """Return whether gRPC found no connection to send the call over, and may find one later."""
    return type(error) is ServiceUnavailable and message.startswith(_NOT_SENT)


def _read(packed: bytes, *details: Message) -> None:
    """Fill in those details that came with an error."""
    try:
        status = Status.FromString(packed)
        for each in status.details:
            for wanted in details:
                each.Unpack(wanted)
    except DecodeError:
        # Something in between has replaced them.
        return


def _new_error(code: grpc.StatusCode, info: ErrorInfo, message: str) -> AuthsvcError:
    if info.domain == _DOMAIN:
        error = AuthsvcError.by_reason.get(info.reason, AuthsvcError)(message)
        # Of a newer service, the reason may be unknown here.
        error.reason = info.reason
        error.metadata = dict(info.metadata)
        return error
    if code is grpc.StatusCode.UNAVAILABLE:
        for said, meaning in _NOT_ACCEPTED.items():
            if said in message:
                return CertificateRefused(f"{meaning} ({message}).")
        if _CLOSED_EARLY.search(message):
            message = f"{_PERHAPS} ({message})."
    return _WITHOUT_REASON.get(code, AuthsvcError)(message)


def _is_retryable(error: AuthsvcError, *, repeatable: bool) -> bool:
    if error.without_effect:
        return True
    match error:
        case Overloaded():
            # Refused before it took effect, unless authsvc says that it was cut off.
            return repeatable or "effect" not in error.metadata
        case TooManyAttempts():
            return True  # refused before it took effect
        case IpBlocked():
            return error.retry_after is not None
        case ProviderUnavailable():
            return False  # a login has to begin again
    return repeatable and error.code in _WITHOUT_REASON
