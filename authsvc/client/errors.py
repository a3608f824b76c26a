"""Owns the errors that a client raises: one class for each reason, all of them an AuthsvcError."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import ClassVar, Literal

import grpc

__all__ = [
    "AuthsvcError",
    "BearerInvalid",
    "CallerNotAllowed",
    "CertificateRefused",
    "ClientClosed",
    "CodeInvalid",
    "CredentialsInvalid",
    "CursorNotReached",
    "CursorTooOld",
    "DefinedInSettings",
    "EmailInvalid",
    "EmailNotVerified",
    "EmailTaken",
    "FactorNotFound",
    "FieldInvalid",
    "IdentityNotFound",
    "ImpersonationNotAllowed",
    "Internal",
    "IpBlocked",
    "KeyNotFound",
    "LastCredential",
    "LimitReached",
    "LinkRequiresLogin",
    "LoginFrozen",
    "NotConfigured",
    "NotDecidable",
    "Overloaded",
    "OverrideNotFound",
    "PasswordChangeRequired",
    "PasswordWeak",
    "PolicyUnknown",
    "ProviderMisconfigured",
    "ProviderUnavailable",
    "ReauthenticationRequired",
    "RedirectNotAllowed",
    "RefreshTokenInvalid",
    "RefreshTokenReused",
    "RequestIdReused",
    "RoleNotFound",
    "ServiceStopping",
    "ServiceTimeout",
    "ServiceUnavailable",
    "SessionBindingMismatch",
    "SessionInvalid",
    "SessionNotFound",
    "StateInvalid",
    "StoreUnavailable",
    "TokenRejected",
    "TooManyAttempts",
    "UserDisabled",
    "UserNotFound",
]


class AuthsvcError(Exception):
    """A call failed.

    An error never holds the request, which may contain secrets.

    Attributes:
        reason: Why, as in error_reason.proto without the prefix; "" if authsvc gave none.
        code: The status code of gRPC.
        message: What authsvc says, for developers and logs.
        retry_after: How long to wait before another attempt, if authsvc says.
        request_id: The id under which authsvc logged the call; "" if the call did not reach it.
        is_retryable: Whether the same request may succeed later and can do no harm then: it is
            known not to have taken effect, or the RPC may be repeated.
        without_effect: Whether it is certain that nothing of the call was done: it was refused
            before it began, or was never sent.
        metadata: What belongs to the reason; error_reason.proto names the keys.
        fields: What is wrong with which field: pairs of a path and a description.
    """

    reason: str = ""
    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    retry_after: timedelta | None
    request_id: str
    is_retryable: bool
    without_effect: bool
    metadata: Mapping[str, str]
    fields: Sequence[tuple[str, str]]

    by_reason: ClassVar[dict[str, type["AuthsvcError"]]] = {}

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = None
        self.request_id = ""
        self.is_retryable = False
        self.without_effect = False
        self.metadata = {}
        self.fields = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.reason:
            cls.by_reason[cls.reason] = cls

    def __str__(self) -> str:
        shown = f"{self.reason or self.code.name}: {self.message}"
        return f"{shown} (request {self.request_id})" if self.request_id else shown


class ServiceUnavailable(AuthsvcError):
    """No replica of authsvc could be reached, or the connection broke."""

    code = grpc.StatusCode.UNAVAILABLE


class CertificateRefused(ServiceUnavailable):
    """This client does not accept the certificate of authsvc, or found no TLS at its address."""


class ServiceTimeout(AuthsvcError):
    """The call's time was over before the answer came; it may have taken effect."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class ClientClosed(AuthsvcError):
    """The client was closed before the call or during it."""

    code = grpc.StatusCode.CANCELLED


class TokenRejected(Exception):
    """A verifier refuses a token.

    Attributes:
        reason: Why: the name of an InactiveReason without its prefix, such as "EXPIRED".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotDecidable(Exception):
    """A verifier can't decide by itself, as it does not know enough of what was revoked.

    Attributes:
        reason: "UNUSABLE": it has heard nothing for too long; "CURSOR_NOT_REACHED": it does not
            know yet of the revocation that `min_cursor` names.
    """

    def __init__(self, reason: Literal["UNUSABLE", "CURSOR_NOT_REACHED"]) -> None:
        super().__init__(reason)
        self.reason = reason


class FieldInvalid(AuthsvcError):
    """A field, or the whole message, is invalid; `fields` says which and why."""

    reason = "FIELD_INVALID"
    code = grpc.StatusCode.INVALID_ARGUMENT


class PasswordWeak(AuthsvcError):
    """The new password does not meet the policy; `fields` is worded for display to the user."""

    reason = "PASSWORD_WEAK"
    code = grpc.StatusCode.INVALID_ARGUMENT


class EmailInvalid(AuthsvcError):
    """The e-mail address is invalid."""

    reason = "EMAIL_INVALID"
    code = grpc.StatusCode.INVALID_ARGUMENT


class CredentialsInvalid(AuthsvcError):
    """The user, the password or another proof is wrong; the error never says which."""

    reason = "CREDENTIALS_INVALID"
    code = grpc.StatusCode.UNAUTHENTICATED


class RefreshTokenInvalid(AuthsvcError):
    """The refresh token is malformed, forged or expired, or its session has ended."""

    reason = "REFRESH_TOKEN_INVALID"
    code = grpc.StatusCode.UNAUTHENTICATED


class RefreshTokenReused(AuthsvcError):
    """The refresh token may have been stolen: it was used twice. Its session has been ended."""

    reason = "REFRESH_TOKEN_REUSED"
    code = grpc.StatusCode.UNAUTHENTICATED


class SessionBindingMismatch(AuthsvcError):
    """The refresh token is valid, but belongs to another client; its session goes on."""

    reason = "SESSION_BINDING_MISMATCH"
    code = grpc.StatusCode.UNAUTHENTICATED


class BearerInvalid(AuthsvcError):
    """The user's access token is missing or not active."""

    reason = "BEARER_INVALID"
    code = grpc.StatusCode.UNAUTHENTICATED


class CallerNotAllowed(AuthsvcError):
    """The caller's certificate is unknown, or its roles don't allow this call."""

    reason = "CALLER_NOT_ALLOWED"
    code = grpc.StatusCode.PERMISSION_DENIED


class EmailTaken(AuthsvcError):
    """Another account has this e-mail address."""

    reason = "EMAIL_TAKEN"
    code = grpc.StatusCode.ALREADY_EXISTS


class UserNotFound(AuthsvcError):
    """No user has this id."""

    reason = "USER_NOT_FOUND"
    code = grpc.StatusCode.NOT_FOUND


class SessionNotFound(AuthsvcError):
    """No session has this id (ended sessions are deleted after some time)."""

    reason = "SESSION_NOT_FOUND"
    code = grpc.StatusCode.NOT_FOUND


class PolicyUnknown(AuthsvcError):
    """No rate-limit policy has this name; see ListPolicies."""

    reason = "POLICY_UNKNOWN"
    code = grpc.StatusCode.NOT_FOUND


class TooManyAttempts(AuthsvcError):
    """Too many recent attempts for this account or from this address."""

    reason = "TOO_MANY_ATTEMPTS"
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Overloaded(AuthsvcError):
    """The service is shedding load: a bounded queue is full."""

    reason = "OVERLOADED"
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class StoreUnavailable(AuthsvcError):
    """The database did not answer in time; the call may have taken effect."""

    reason = "STORE_UNAVAILABLE"
    code = grpc.StatusCode.UNAVAILABLE


class Internal(AuthsvcError):
    """A fault in the service; its log has the cause under the request id."""

    reason = "INTERNAL"
    code = grpc.StatusCode.INTERNAL


class CodeInvalid(AuthsvcError):
    """The one-time code is wrong, used, expired or replaced; the error never says which."""

    reason = "CODE_INVALID"
    code = grpc.StatusCode.UNAUTHENTICATED


class StateInvalid(AuthsvcError):
    """The `state` is unknown, used or expired."""

    reason = "STATE_INVALID"
    code = grpc.StatusCode.FAILED_PRECONDITION


class LinkRequiresLogin(AuthsvcError):
    """An account has the provider's e-mail address, but isn't linked to the identity."""

    reason = "LINK_REQUIRES_LOGIN"
    code = grpc.StatusCode.FAILED_PRECONDITION


class ReauthenticationRequired(AuthsvcError):
    """The change requires a login more recent than the token's `auth_time`."""

    reason = "REAUTHENTICATION_REQUIRED"
    code = grpc.StatusCode.FAILED_PRECONDITION


class RedirectNotAllowed(AuthsvcError):
    """The redirect URI is not one of those in the settings."""

    reason = "REDIRECT_NOT_ALLOWED"
    code = grpc.StatusCode.INVALID_ARGUMENT


class KeyNotFound(AuthsvcError):
    """The user has no API key with this id, or there is no such signing key."""

    reason = "KEY_NOT_FOUND"
    code = grpc.StatusCode.NOT_FOUND


class FactorNotFound(AuthsvcError):
    """The user has no factor with this id."""

    reason = "FACTOR_NOT_FOUND"
    code = grpc.StatusCode.NOT_FOUND


class IdentityNotFound(AuthsvcError):
    """The user has no such identity at this provider."""

    reason = "IDENTITY_NOT_FOUND"
    code = grpc.StatusCode.NOT_FOUND


class EmailNotVerified(AuthsvcError):
    """The e-mail address has to be verified first, by VerifyEmail or at the provider."""

    reason = "EMAIL_NOT_VERIFIED"
    code = grpc.StatusCode.FAILED_PRECONDITION


class LastCredential(AuthsvcError):
    """Without this credential the user could no longer log in."""

    reason = "LAST_CREDENTIAL"
    code = grpc.StatusCode.FAILED_PRECONDITION


class LimitReached(AuthsvcError):
    """The user, or the service, has the maximum number of these."""

    reason = "LIMIT_REACHED"
    code = grpc.StatusCode.FAILED_PRECONDITION


class ProviderUnavailable(AuthsvcError):
    """The identity provider, or the service of breached passwords, did not answer in time."""

    reason = "PROVIDER_UNAVAILABLE"
    code = grpc.StatusCode.UNAVAILABLE


class ServiceStopping(AuthsvcError):
    """This replica is shutting down; a repeated call reaches another one.

    It has refused the call if `without_effect`, and otherwise cut it off.
    """

    reason = "SERVICE_STOPPING"
    code = grpc.StatusCode.UNAVAILABLE


class ProviderMisconfigured(AuthsvcError):
    """The provider can't be used until an operator mends something."""

    reason = "PROVIDER_MISCONFIGURED"
    code = grpc.StatusCode.FAILED_PRECONDITION


class CursorTooOld(AuthsvcError):
    """The cursor can't be continued; begin without one."""

    reason = "CURSOR_TOO_OLD"
    code = grpc.StatusCode.OUT_OF_RANGE


class DefinedInSettings(AuthsvcError):
    """The settings define a policy or role of this name; change it there."""

    reason = "DEFINED_IN_SETTINGS"
    code = grpc.StatusCode.FAILED_PRECONDITION


class RoleNotFound(AuthsvcError):
    """No role has this name; see ListRoles."""

    reason = "ROLE_NOT_FOUND"
    code = grpc.StatusCode.NOT_FOUND


class OverrideNotFound(AuthsvcError):
    """The key has no override of this policy."""

    reason = "OVERRIDE_NOT_FOUND"
    code = grpc.StatusCode.NOT_FOUND


class IpBlocked(AuthsvcError):
    """The end user's address is blocked."""

    reason = "IP_BLOCKED"
    code = grpc.StatusCode.PERMISSION_DENIED


class ImpersonationNotAllowed(AuthsvcError):
    """The user must not be impersonated, or an impersonated session must not do this."""

    reason = "IMPERSONATION_NOT_ALLOWED"
    code = grpc.StatusCode.PERMISSION_DENIED


class SessionInvalid(AuthsvcError):
    """The session is not active, or the CSRF token isn't its."""

    reason = "SESSION_INVALID"
    code = grpc.StatusCode.UNAUTHENTICATED


class NotConfigured(AuthsvcError):
    """The service's settings don't provide for this; `metadata` names the setting."""

    reason = "NOT_CONFIGURED"
    code = grpc.StatusCode.FAILED_PRECONDITION


class RequestIdReused(AuthsvcError):
    """Another request had this `request_id` within the last day."""

    reason = "REQUEST_ID_REUSED"
    code = grpc.StatusCode.INVALID_ARGUMENT


class PasswordChangeRequired(AuthsvcError):
    """The password is right, but has to be changed first."""

    reason = "PASSWORD_CHANGE_REQUIRED"
    code = grpc.StatusCode.FAILED_PRECONDITION


class UserDisabled(AuthsvcError):
    """The user is disabled."""

    reason = "USER_DISABLED"
    code = grpc.StatusCode.FAILED_PRECONDITION


class LoginFrozen(AuthsvcError):
    """An operator has frozen logins of this kind for a while."""

    reason = "LOGIN_FROZEN"
    code = grpc.StatusCode.FAILED_PRECONDITION


class CursorNotReached(AuthsvcError):
    """A verifier does not know yet of the revocation that `min_cursor` names."""

    reason = "CURSOR_NOT_REACHED"
    code = grpc.StatusCode.FAILED_PRECONDITION
