"""Owns the errors: every failure that a caller can get, and its reason. It is independent of gRPC.

ServiceError
├── FieldInvalid          FIELD_INVALID, EMAIL_INVALID, PASSWORD_WEAK, REDIRECT_NOT_ALLOWED,
│                         REQUEST_ID_REUSED: the request is invalid
├── Unauthenticated       CREDENTIALS_INVALID, CODE_INVALID, REFRESH_TOKEN_*, BEARER_INVALID,
│                         SESSION_BINDING_MISMATCH, SESSION_INVALID
├── CallerNotAllowed      CALLER_NOT_ALLOWED
├── IpBlocked             IP_BLOCKED, with the time until the block ends, if it does
├── PermissionDenied      IMPERSONATION_NOT_ALLOWED
├── AlreadyExists         EMAIL_TAKEN
├── NotFound              USER_NOT_FOUND, SESSION_NOT_FOUND, POLICY_UNKNOWN, KEY_NOT_FOUND,
│                         FACTOR_NOT_FOUND, IDENTITY_NOT_FOUND, ROLE_NOT_FOUND,
│                         OVERRIDE_NOT_FOUND
├── FailedPrecondition    STATE_INVALID, LINK_REQUIRES_LOGIN, REAUTHENTICATION_REQUIRED,
│                         EMAIL_NOT_VERIFIED, LAST_CREDENTIAL, LIMIT_REACHED, NOT_CONFIGURED,
│                         PASSWORD_CHANGE_REQUIRED, USER_DISABLED, DEFINED_IN_SETTINGS,
│                         LOGIN_FROZEN
├── TooManyAttempts       TOO_MANY_ATTEMPTS, with the time until a retry helps
├── Overloaded            OVERLOADED, with the time until a retry helps
├── StoreUnavailable      STORE_UNAVAILABLE
├── ProviderUnavailable   PROVIDER_UNAVAILABLE
├── ProviderMisconfigured PROVIDER_MISCONFIGURED
├── ServiceStopping       SERVICE_STOPPING
└── CursorTooOld          CURSOR_TOO_OLD

ServerError is for the operator: the service can't start listening.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

# Of names in a message, how many are shown, and how many characters of each.
_MAX_NAMES = 8
_MAX_NAME = 40


class Reason(StrEnum):
    """Why a call failed; each value is documented in `error_reason.proto` under the same name."""

    FIELD_INVALID = "FIELD_INVALID"
    PASSWORD_WEAK = "PASSWORD_WEAK"  # noqa: S105 - a reason's name, not a password
    EMAIL_INVALID = "EMAIL_INVALID"
    CREDENTIALS_INVALID = "CREDENTIALS_INVALID"
    REFRESH_TOKEN_INVALID = "REFRESH_TOKEN_INVALID"  # noqa: S105 - a reason's name
    REFRESH_TOKEN_REUSED = "REFRESH_TOKEN_REUSED"  # noqa: S105 - a reason's name
    SESSION_BINDING_MISMATCH = "SESSION_BINDING_MISMATCH"
    BEARER_INVALID = "BEARER_INVALID"
    CALLER_NOT_ALLOWED = "CALLER_NOT_ALLOWED"
    IMPERSONATION_NOT_ALLOWED = "IMPERSONATION_NOT_ALLOWED"
    EMAIL_TAKEN = "EMAIL_TAKEN"
    USER_NOT_FOUND = "USER_NOT_FOUND"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    POLICY_UNKNOWN = "POLICY_UNKNOWN"
    TOO_MANY_ATTEMPTS = "TOO_MANY_ATTEMPTS"
    OVERLOADED = "OVERLOADED"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    CODE_INVALID = "CODE_INVALID"
    STATE_INVALID = "STATE_INVALID"
    LINK_REQUIRES_LOGIN = "LINK_REQUIRES_LOGIN"
    REAUTHENTICATION_REQUIRED = "REAUTHENTICATION_REQUIRED"
    REDIRECT_NOT_ALLOWED = "REDIRECT_NOT_ALLOWED"
    KEY_NOT_FOUND = "KEY_NOT_FOUND"
    FACTOR_NOT_FOUND = "FACTOR_NOT_FOUND"
    IDENTITY_NOT_FOUND = "IDENTITY_NOT_FOUND"
    EMAIL_NOT_VERIFIED = "EMAIL_NOT_VERIFIED"
    LAST_CREDENTIAL = "LAST_CREDENTIAL"
    LIMIT_REACHED = "LIMIT_REACHED"
    DEFINED_IN_SETTINGS = "DEFINED_IN_SETTINGS"
    ROLE_NOT_FOUND = "ROLE_NOT_FOUND"
    OVERRIDE_NOT_FOUND = "OVERRIDE_NOT_FOUND"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    PROVIDER_MISCONFIGURED = "PROVIDER_MISCONFIGURED"
    LOGIN_FROZEN = "LOGIN_FROZEN"
    SESSION_INVALID = "SESSION_INVALID"
    NOT_CONFIGURED = "NOT_CONFIGURED"
    SERVICE_STOPPING = "SERVICE_STOPPING"
    IP_BLOCKED = "IP_BLOCKED"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    PASSWORD_CHANGE_REQUIRED = "PASSWORD_CHANGE_REQUIRED"  # noqa: S105 - a reason's name
    USER_DISABLED = "USER_DISABLED"
    CURSOR_TOO_OLD = "CURSOR_TOO_OLD"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Violation:
    """One problem with one field; `field` is its path, such as `charges[2].cost`."""

    field: str
    description: str


class ServiceError(Exception):
    """A failure that is reported to the caller.

    `message` is one sentence for the caller: it never contains a secret, a cause or another user's
    data. `metadata` goes into ErrorInfo.
    """

    reason: Reason
    message: str
    metadata: Mapping[str, str]

    def __init__(
        self, reason: Reason, message: str, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = MappingProxyType(dict(metadata or {}))


class FieldInvalid(ServiceError):
    """The request is invalid; `violations` lists the problems by field."""

    violations: Sequence[Violation]

    def __init__(
        self, field: str, description: str, *, reason: Reason = Reason.FIELD_INVALID
    ) -> None:
        super().__init__(reason, f"{field}: {description}" if field else description)
        self.violations = (Violation(field, description),)

    @classmethod
    def weak_password(cls, field: str, descriptions: Sequence[str]) -> "FieldInvalid":
        """Return the error for a password that breaks the rules in `descriptions` (one or more)."""
        error = cls(field, descriptions[0], reason=Reason.PASSWORD_WEAK)
        error.violations = tuple(Violation(field, text) for text in descriptions)
        return error


class Unauthenticated(ServiceError):
    """The credentials don't authenticate the user; the error never says which part failed."""


class CallerNotAllowed(ServiceError):
    """The calling service may not do this; the error never says who may."""

    def __init__(self, message: str = "The caller is not allowed to do this.") -> None:
        super().__init__(Reason.CALLER_NOT_ALLOWED, message)


class IpBlocked(ServiceError):
    """The user's address is blocked, for `retry_after` seconds or, if None, without a known end."""

    retry_after: float | None

    def __init__(self, retry_after: float | None) -> None:
        super().__init__(Reason.IP_BLOCKED, "The client's IP address is blocked.")
        self.retry_after = retry_after


class PermissionDenied(ServiceError):
    """The caller may do this, but not to this user or not in this session."""


class AlreadyExists(ServiceError):
    """The object to create already exists."""


class NotFound(ServiceError):
    """The requested object does not exist."""


class FailedPrecondition(ServiceError):
    """The call requires something else to happen first; the reason says what."""


class TooManyAttempts(ServiceError):
    """Too many recent attempts of the kind `subject`; retry after `retry_after` seconds.

    `ip` is the user's address if a limit of its network was exceeded, which counts as a violation.
    """

    retry_after: float
    subject: str
    ip: str | None

    def __init__(self, retry_after: float, subject: str = "login", ip: str | None = None) -> None:
        super().__init__(Reason.TOO_MANY_ATTEMPTS, "Too many attempts; try again later.")
        self.retry_after = retry_after
        self.subject = subject
        self.ip = ip


class Resource(StrEnum):
    """What can be full: places for calls or streams, queues for work, imports and exports."""

    CALLS = "calls"
    HASHES = "hashes"
    BATCHES = "batches"
    STREAMS = "streams"
    TRANSFERS = "transfers"


class Overloaded(ServiceError):
    """`what` is full; a retry after `retry_after` seconds may succeed."""

    what: Resource
    retry_after: float

    def __init__(
        self,
        message: str = "The service is overloaded.",
        retry_after: float = 1.0,
        what: Resource = Resource.CALLS,
    ) -> None:
        super().__init__(Reason.OVERLOADED, message)
        self.what = what
        self.retry_after = retry_after


class StoreUnavailable(ServiceError):
    """The database did not answer in time or can't be reached."""

    def __init__(self, message: str = "The database is not available.") -> None:
        super().__init__(Reason.STORE_UNAVAILABLE, message)


class ProviderUnavailable(ServiceError):
    """An identity provider did not answer in time, or gave an invalid answer."""

    def __init__(
        self, message: str = "The provider did not answer in time or gave an invalid answer."
    ) -> None:
        super().__init__(Reason.PROVIDER_UNAVAILABLE, message)


class ProviderMisconfigured(ServiceError):
    """An identity provider can't be used until an operator mends something; the log says what."""

    def __init__(self) -> None:
        message = "The provider is not set up correctly; the service's log says what to mend."
        super().__init__(Reason.PROVIDER_MISCONFIGURED, message)


class ServiceStopping(ServiceError):
    """The replica is shutting down; another one may serve the call."""

    def __init__(self) -> None:
        super().__init__(Reason.SERVICE_STOPPING, "This replica is stopping; call another.")


class CursorTooOld(ServiceError):
    """The cursor can't be continued; begin without one."""

    def __init__(self) -> None:
        super().__init__(Reason.CURSOR_TOO_OLD, "The cursor can't be continued; begin anew.")


class ServerError(Exception):
    """The service can't listen; the message is one sentence for the operator."""


def credentials_invalid() -> Unauthenticated:
    """Return the error for every failed login, which is the same for all causes (ASVS 6.3.8)."""
    return Unauthenticated(Reason.CREDENTIALS_INVALID, "The credentials are not valid.")


def refresh_token_invalid() -> Unauthenticated:
    """Return the error for a refresh token that is malformed, forged, expired or ended."""
    return Unauthenticated(Reason.REFRESH_TOKEN_INVALID, "The refresh token is not valid.")


def refresh_token_reused(revocation_cursor: str) -> Unauthenticated:
    """Return the error for a refresh token that was replaced longer ago than the grace window.

    The cursor names the end of its session.
    """
    return Unauthenticated(
        Reason.REFRESH_TOKEN_REUSED,
        "The refresh token was already used; its session has ended.",
        {"revocation_cursor": revocation_cursor},
    )


def session_binding_mismatch() -> Unauthenticated:
    """Return the error for a valid refresh token of a session that is bound to another client."""
    return Unauthenticated(
        Reason.SESSION_BINDING_MISMATCH,
        "The session can't be used from this address or user agent; log in again.",
    )


def session_invalid(cause: str) -> Unauthenticated:
    """Return the error for a session that is not active, or a CSRF token that isn't its."""
    return Unauthenticated(
        Reason.SESSION_INVALID, "The session or its CSRF token is not valid.", {"cause": cause}
    )


def bearer_invalid() -> Unauthenticated:
    """Return the error for a call without an active access token of its user."""
    return Unauthenticated(Reason.BEARER_INVALID, "An active access token of the user is required.")


def impersonation_not_allowed(message: str) -> PermissionDenied:
    """Return the error for a user or a call that must not be impersonated; `message` says which."""
    return PermissionDenied(Reason.IMPERSONATION_NOT_ALLOWED, message)


def user_not_found() -> NotFound:
    """Return the error for an unknown user id."""
    return NotFound(Reason.USER_NOT_FOUND, "No user has this id.")


def user_disabled() -> FailedPrecondition:
    """Return the error, for operators only, for what a disabled account can't have."""
    return FailedPrecondition(Reason.USER_DISABLED, "The account is disabled; enable it first.")


def password_change_required() -> FailedPrecondition:
    """Return the error for a login with a right password that has to be changed first."""
    return FailedPrecondition(
        Reason.PASSWORD_CHANGE_REQUIRED,
        "This password can't be used any more; set a new one with a code for a password reset.",
    )


def request_id_reused() -> FieldInvalid:
    """Return the error for a request with the id of another one."""
    return FieldInvalid(
        "request_id", "was used for another request", reason=Reason.REQUEST_ID_REUSED
    )


def quoted_names(names: Collection[str]) -> str:
    """Return the first of `names` that somebody sent for a message: each quoted, cut and escaped.

    What looks like an address or a hash is not shown, as it may be a value in the wrong place.
    """
    found = [_quoted(name) for name in list(names)[:_MAX_NAMES]]
    if len(names) > _MAX_NAMES:
        found.append(f"and {len(names) - _MAX_NAMES} more")
    return ", ".join(found)


def _quoted(name: str) -> str:
    if "@" in name or "$" in name:
        return "one that looks like a value"
    return json.dumps(name if len(name) <= _MAX_NAME else name[:_MAX_NAME] + "…")


def email_not_found() -> NotFound:
    """Return the error, for operators only, for an address that no account has."""
    return NotFound(Reason.USER_NOT_FOUND, "No user has this address.")


def session_not_found() -> NotFound:
    """Return the error for an unknown session id."""
    return NotFound(Reason.SESSION_NOT_FOUND, "No session has this id.")


def policy_unknown(policy: str) -> NotFound:
    """Return the error for an unknown rate-limit policy."""
    return NotFound(
        Reason.POLICY_UNKNOWN, "No rate-limit policy has this name.", {"policy": policy}
    )


def role_not_found(role: str) -> NotFound:
    """Return the error for a role that is not defined."""
    return NotFound(Reason.ROLE_NOT_FOUND, "No role has this name.", {"role": role})


def override_not_found() -> NotFound:
    """Return the error for a key that has no override of its policy."""
    return NotFound(Reason.OVERRIDE_NOT_FOUND, "This key has no override of this policy.")


def defined_in_settings(name: str) -> FailedPrecondition:
    """Return the error for a change at run time of what the settings define."""
    return FailedPrecondition(
        Reason.DEFINED_IN_SETTINGS,
        "The settings define this name, so it can only be changed there.",
        {"name": name},
    )


def email_taken() -> AlreadyExists:
    """Return the error for an address that another account has."""
    return AlreadyExists(Reason.EMAIL_TAKEN, "Another account has this e-mail address.")


def code_invalid() -> Unauthenticated:
    """Return the error for every invalid one-time code, which is the same for all causes."""
    return Unauthenticated(Reason.CODE_INVALID, "The code is not valid.")


def state_invalid() -> FailedPrecondition:
    """Return the error for a state or challenge that is unknown, used or expired."""
    return FailedPrecondition(
        Reason.STATE_INVALID, "The state or challenge is unknown, used or expired."
    )


def link_requires_login() -> FailedPrecondition:
    """Return the error for an unlinked identity whose address an account has."""
    return FailedPrecondition(
        Reason.LINK_REQUIRES_LOGIN,
        "Log in to the account with this address, then link the identity.",
    )


def reauthentication_required(max_age: float) -> FailedPrecondition:
    """Return the error for a sensitive change with a login older than `max_age` seconds."""
    return FailedPrecondition(
        Reason.REAUTHENTICATION_REQUIRED,
        "This requires a more recent login.",
        {"max_age": str(int(max_age))},
    )


def redirect_not_allowed(field: str = "redirect_uri") -> FieldInvalid:
    """Return the error for a redirect URI that is not in the settings."""
    return FieldInvalid(field, "is not an allowed redirect URI", reason=Reason.REDIRECT_NOT_ALLOWED)


def key_not_found() -> NotFound:
    """Return the error for an API key's id that is not one of the user's."""
    return NotFound(Reason.KEY_NOT_FOUND, "No API key has this id.")


def signing_key_not_found() -> NotFound:
    """Return the error for an unknown signing key's id."""
    return NotFound(Reason.KEY_NOT_FOUND, "No signing key has this id.")


def factor_not_found() -> NotFound:
    """Return the error for a factor's id that is not one of the user's."""
    return NotFound(Reason.FACTOR_NOT_FOUND, "No factor has this id.")


def identity_not_found() -> NotFound:
    """Return the error for an identity that is not one of the user's."""
    return NotFound(Reason.IDENTITY_NOT_FOUND, "No such identity is linked.")


def email_not_verified() -> FailedPrecondition:
    """Return the error for a call that requires a verified address."""
    return FailedPrecondition(Reason.EMAIL_NOT_VERIFIED, "The e-mail address is not verified.")


def last_credential() -> FailedPrecondition:
    """Return the error for the removal of the only way to log in."""
    return FailedPrecondition(Reason.LAST_CREDENTIAL, "Without it the user could no longer log in.")


def limit_reached(limit: int) -> FailedPrecondition:
    """Return the error for exceeding a maximum of `limit`."""
    return FailedPrecondition(
        Reason.LIMIT_REACHED, f"At most {limit} of these are allowed.", {"limit": str(limit)}
    )


def login_frozen(method: str) -> FailedPrecondition:
    """Return the error for a login that an operator has frozen."""
    return FailedPrecondition(
        Reason.LOGIN_FROZEN, "Logins of this kind are frozen at the moment.", {"method": method}
    )


def not_configured(setting: str, message: str) -> FailedPrecondition:
    """Return the error for a call that the settings don't provide for."""
    return FailedPrecondition(Reason.NOT_CONFIGURED, message, {"setting": setting})
