"""The gRPC status of each reason: its code and details."""

from datetime import timedelta

import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2
from grpc import StatusCode

from authsvc import errors
from authsvc.errors import FieldInvalid, Reason, ServiceError
from authsvc.rpc.status import CODES, to_status

EXPECTED = {
    StatusCode.INVALID_ARGUMENT: {
        "FIELD_INVALID",
        "PASSWORD_WEAK",
        "EMAIL_INVALID",
        "REDIRECT_NOT_ALLOWED",
        "REQUEST_ID_REUSED",
    },
    StatusCode.UNAUTHENTICATED: {
        "CREDENTIALS_INVALID",
        "CODE_INVALID",
        "REFRESH_TOKEN_INVALID",
        "REFRESH_TOKEN_REUSED",
        "SESSION_BINDING_MISMATCH",
        "BEARER_INVALID",
        "SESSION_INVALID",
    },
    StatusCode.PERMISSION_DENIED: {"CALLER_NOT_ALLOWED", "IP_BLOCKED", "IMPERSONATION_NOT_ALLOWED"},
    StatusCode.ALREADY_EXISTS: {"EMAIL_TAKEN"},
    StatusCode.NOT_FOUND: {
        "USER_NOT_FOUND",
        "SESSION_NOT_FOUND",
        "POLICY_UNKNOWN",
        "KEY_NOT_FOUND",
        "FACTOR_NOT_FOUND",
        "IDENTITY_NOT_FOUND",
        "ROLE_NOT_FOUND",
        "OVERRIDE_NOT_FOUND",
    },
    StatusCode.FAILED_PRECONDITION: {
        "REAUTHENTICATION_REQUIRED",
        "LINK_REQUIRES_LOGIN",
        "STATE_INVALID",
        "EMAIL_NOT_VERIFIED",
        "LAST_CREDENTIAL",
        "LIMIT_REACHED",
        "PROVIDER_MISCONFIGURED",
        "PASSWORD_CHANGE_REQUIRED",
        "USER_DISABLED",
        "NOT_CONFIGURED",
        "LOGIN_FROZEN",
        "DEFINED_IN_SETTINGS",
    },
    StatusCode.OUT_OF_RANGE: {"CURSOR_TOO_OLD"},
    StatusCode.RESOURCE_EXHAUSTED: {"TOO_MANY_ATTEMPTS", "OVERLOADED"},
    StatusCode.UNAVAILABLE: {"STORE_UNAVAILABLE", "PROVIDER_UNAVAILABLE", "SERVICE_STOPPING"},
    StatusCode.INTERNAL: {"INTERNAL"},
}


def unpacked(status: status_pb2.Status) -> list[Message]:
    """Return the details, each as its own type."""
    found = []
    for packed in status.details:
        detail = getattr(details, packed.TypeName().removeprefix("google.rpc."))()
        assert packed.Unpack(detail)
        found.append(detail)
    return found


def kinds(status: status_pb2.Status) -> list[str]:
    return [detail.DESCRIPTOR.name for detail in unpacked(status)]


def test_each_reason_has_documented_code() -> None:
    by_code = {
        code: {reason.value for reason, of in CODES.items() if of is code}
        for code in set(CODES.values())
    }
    assert by_code == EXPECTED


@pytest.mark.parametrize("reason", Reason)
def test_each_status_includes_reason_and_request_id(reason: Reason) -> None:
    status = to_status(ServiceError(reason, "What went wrong.", {"policy": "api"}), "request-7")
    info, request = unpacked(status)
    assert status.code == CODES[reason].value[0]
    assert status.message == "What went wrong."
    assert info == details.ErrorInfo(
        reason=reason.value, domain="authsvc", metadata={"policy": "api"}
    )
    assert request == details.RequestInfo(request_id="request-7")


def test_field_violation_includes_description() -> None:
    status = to_status(FieldInvalid("charges[2].cost", "must be positive"), "r")
    assert kinds(status) == ["ErrorInfo", "BadRequest", "RequestInfo"]
    violation = details.BadRequest.FieldViolation(
        field="charges[2].cost", description="must be positive"
    )
    assert unpacked(status)[1] == details.BadRequest(field_violations=[violation])
    assert status.message == "charges[2].cost: must be positive"


def test_weak_password_lists_each_broken_rule() -> None:
    status = to_status(FieldInvalid.weak_password("password", ["too short", "no digit"]), "r")
    bad = unpacked(status)[1]
    assert isinstance(bad, details.BadRequest)
    assert [violation.description for violation in bad.field_violations] == [
        "too short",
        "no digit",
    ]
    assert {violation.field for violation in bad.field_violations} == {"password"}


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (errors.TooManyAttempts(12.5), 12.5),
        (errors.TooManyAttempts(86_400.0), 86_400),
        (errors.TooManyAttempts(0.000_000_001), 0.000_000_001),
        (errors.Overloaded(retry_after=0.25), 0.25),
        (errors.StoreUnavailable(), 1),
    ],
)
def test_retry_info_includes_delay(error: ServiceError, seconds: float) -> None:
    retry = unpacked(to_status(error, "r"))[1]
    assert isinstance(retry, details.RetryInfo)
    assert retry.retry_delay.ToNanoseconds() == round(seconds * 1e9)


def test_too_many_attempts_includes_quota_subject() -> None:
    status = to_status(errors.TooManyAttempts(3, "login"), "r")
    assert kinds(status) == ["ErrorInfo", "RetryInfo", "QuotaFailure", "RequestInfo"]
    quota = unpacked(status)[2]
    assert isinstance(quota, details.QuotaFailure)
    assert [violation.subject for violation in quota.violations] == ["login"]


def test_overload_is_not_reported_as_quota_failure() -> None:
    assert kinds(to_status(errors.Overloaded(), "r")) == ["ErrorInfo", "RetryInfo", "RequestInfo"]


def test_largest_status_fits_client_metadata_limit() -> None:
    # gRPC clients reject metadata above 8 KiB, and would lose the reason with it.
    rules = [f"rule {number} of the password policy is broken" for number in range(20)]
    status = to_status(FieldInvalid.weak_password("password", rules), "x" * 128)
    assert status.ByteSize() < 4_096


def test_retry_delay_is_a_duration() -> None:
    retry = unpacked(to_status(errors.TooManyAttempts(61), "r"))[1]
    assert isinstance(retry, details.RetryInfo)
    assert retry.retry_delay.ToTimedelta() == timedelta(seconds=61)
