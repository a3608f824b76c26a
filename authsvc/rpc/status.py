"""Owns the gRPC status of errors: the code for each reason, and the error details."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    QuotaFailure,
    RequestInfo,
    RetryInfo,
)
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from authsvc.errors import (
    FieldInvalid,
    IpBlocked,
    Overloaded,
    ProviderUnavailable,
    Reason,
    ServiceError,
    ServiceStopping,
    StoreUnavailable,
    TooManyAttempts,
)

DOMAIN = "authsvc"

CODES: Mapping[Reason, StatusCode] = MappingProxyType(
    {
        Reason.FIELD_INVALID: StatusCode.INVALID_ARGUMENT,
        Reason.PASSWORD_WEAK: StatusCode.INVALID_ARGUMENT,
        Reason.EMAIL_INVALID: StatusCode.INVALID_ARGUMENT,
        Reason.CREDENTIALS_INVALID: StatusCode.UNAUTHENTICATED,
        Reason.REFRESH_TOKEN_INVALID: StatusCode.UNAUTHENTICATED,
        Reason.REFRESH_TOKEN_REUSED: StatusCode.UNAUTHENTICATED,
        Reason.SESSION_BINDING_MISMATCH: StatusCode.UNAUTHENTICATED,
        Reason.BEARER_INVALID: StatusCode.UNAUTHENTICATED,
        Reason.CALLER_NOT_ALLOWED: StatusCode.PERMISSION_DENIED,
        Reason.IMPERSONATION_NOT_ALLOWED: StatusCode.PERMISSION_DENIED,
        Reason.EMAIL_TAKEN: StatusCode.ALREADY_EXISTS,
        Reason.USER_NOT_FOUND: StatusCode.NOT_FOUND,
        Reason.SESSION_NOT_FOUND: StatusCode.NOT_FOUND,
        Reason.POLICY_UNKNOWN: StatusCode.NOT_FOUND,
        Reason.TOO_MANY_ATTEMPTS: StatusCode.RESOURCE_EXHAUSTED,
        Reason.OVERLOADED: StatusCode.RESOURCE_EXHAUSTED,
        Reason.STORE_UNAVAILABLE: StatusCode.UNAVAILABLE,
        Reason.CODE_INVALID: StatusCode.UNAUTHENTICATED,
        Reason.STATE_INVALID: StatusCode.FAILED_PRECONDITION,
        Reason.LINK_REQUIRES_LOGIN: StatusCode.FAILED_PRECONDITION,
        Reason.REAUTHENTICATION_REQUIRED: StatusCode.FAILED_PRECONDITION,
        Reason.REDIRECT_NOT_ALLOWED: StatusCode.INVALID_ARGUMENT,
        Reason.KEY_NOT_FOUND: StatusCode.NOT_FOUND,
        Reason.FACTOR_NOT_FOUND: StatusCode.NOT_FOUND,
        Reason.IDENTITY_NOT_FOUND: StatusCode.NOT_FOUND,
        Reason.EMAIL_NOT_VERIFIED: StatusCode.FAILED_PRECONDITION,
        Reason.LAST_CREDENTIAL: StatusCode.FAILED_PRECONDITION,
        Reason.LIMIT_REACHED: StatusCode.FAILED_PRECONDITION,
        Reason.DEFINED_IN_SETTINGS: StatusCode.FAILED_PRECONDITION,
        Reason.ROLE_NOT_FOUND: StatusCode.NOT_FOUND,
        Reason.OVERRIDE_NOT_FOUND: StatusCode.NOT_FOUND,
        Reason.PROVIDER_UNAVAILABLE: StatusCode.UNAVAILABLE,
        Reason.PROVIDER_MISCONFIGURED: StatusCode.FAILED_PRECONDITION,
        Reason.LOGIN_FROZEN: StatusCode.FAILED_PRECONDITION,
        Reason.SESSION_INVALID: StatusCode.UNAUTHENTICATED,
        Reason.NOT_CONFIGURED: StatusCode.FAILED_PRECONDITION,
        Reason.SERVICE_STOPPING: StatusCode.UNAVAILABLE,
        Reason.IP_BLOCKED: StatusCode.PERMISSION_DENIED,
        Reason.REQUEST_ID_REUSED: StatusCode.INVALID_ARGUMENT,
        Reason.PASSWORD_CHANGE_REQUIRED: StatusCode.FAILED_PRECONDITION,
        Reason.USER_DISABLED: StatusCode.FAILED_PRECONDITION,
        Reason.CURSOR_TOO_OLD: StatusCode.OUT_OF_RANGE,
        Reason.INTERNAL: StatusCode.INTERNAL,
    }
)

_RETRY_SECONDS = 1.0
# Those for which a client has to know whether it may send the call again.
_TRANSIENT = (Overloaded, StoreUnavailable, ServiceStopping)


class Effect(StrEnum):
    """What a call that failed has done, as the metadata of its error say.

    `NONE`: it was refused before it began. `UNKNOWN`: it was running, and was cut off.
    """

    NONE = "none"
    UNKNOWN = "unknown"


def to_status(error: ServiceError, request_id: str, effect: Effect | None = None) -> Status:
    """Return the google.rpc.Status for `error`, with its details (AIP-193)."""
    code: int = CODES[error.reason].value[0]
    status = Status(code=code, message=error.message)
    metadata = dict(error.metadata)
    if effect is not None and isinstance(error, _TRANSIENT):
        metadata["effect"] = effect
    for detail in _details(error, metadata, request_id):
        status.details.add().Pack(detail)
    return status


def _details(error: ServiceError, metadata: Mapping[str, str], request_id: str) -> list[Message]:
    details: list[Message] = [ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    match error:
        case FieldInvalid():
            details.append(
                BadRequest(
                    field_violations=[
                        BadRequest.FieldViolation(field=each.field, description=each.description)
                        for each in error.violations
                    ]
                )
            )
        case TooManyAttempts():
            details.append(_retry(error.retry_after))
            violation = QuotaFailure.Violation(subject=error.subject, description=error.message)
            details.append(QuotaFailure(violations=[violation]))
        case IpBlocked(retry_after=float() as seconds):
            details.append(_retry(seconds))
        case Overloaded():
            details.append(_retry(error.retry_after))
        case StoreUnavailable() | ProviderUnavailable() | ServiceStopping():
            details.append(_retry(_RETRY_SECONDS))
        case _:
            pass
    details.append(RequestInfo(request_id=request_id))
    return details


def _retry(seconds: float) -> RetryInfo:
    delay = Duration()
    delay.FromNanoseconds(round(seconds * 1_000_000_000))
    return RetryInfo(retry_delay=delay)
