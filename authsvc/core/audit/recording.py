"""Owns audit events: their types, and the recording of each in both the database and the log."""

import json
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

import structlog

from authsvc.core.audit.schema import Detail, declared
from authsvc.core.lib.ids import uuid7
from authsvc.models.audit import AuditRow
from authsvc.models.calls import Call, ClientContext
from authsvc.models.ids import SessionId, UserId
from authsvc.store import audit
from authsvc.store.postgres.database import Connection

log = structlog.get_logger("audit")

_NO_CLIENT = ClientContext()


class AuditType(StrEnum):
    """The type of an audit event."""

    REGISTER = "user.register"
    LOGIN = "user.login"
    LOGIN_FAILURE = "user.login_failure"
    LOGIN_THROTTLED = "user.login_throttled"
    USER_CREATE = "user.create"
    USER_DISABLE = "user.disable"
    USER_ENABLE = "user.enable"
    USER_ROLES_SET = "user.roles_set"
    USER_UNLOCK = "user.unlock"
    PASSWORD_CHANGE_REQUIRE = "user.password_change_require"  # noqa: S105 - an event's name
    SESSION_CREATE = "session.create"
    IMPERSONATE = "session.impersonate"
    REVOKE_ALL = "session.revoke_all"
    REFRESH = "session.refresh"
    REFRESH_REUSE = "session.refresh_reuse"
    LOGOUT = "session.logout"
    REVOKE = "session.revoke"
    MFA_REQUIRED = "user.mfa_required"
    EMAIL_VERIFY = "user.email_verify"
    EMAIL_CHANGE_REQUEST = "user.email_change_request"
    EMAIL_CHANGE = "user.email_change"
    PASSWORD_CHANGE = "user.password_change"  # noqa: S105 - an event's name
    PASSWORD_RESET_REQUEST = "user.password_reset_request"  # noqa: S105 - an event's name
    PASSWORD_RESET = "user.password_reset"  # noqa: S105 - an event's name
    CODE_REQUEST = "user.code_request"
    ACCOUNT_UPDATE = "user.update"
    ACCOUNT_DELETE = "user.delete"
    DATA_EXPORT = "user.data_export"
    OWNER_ARRIVED = "user.owner_arrived"
    USERS_IMPORT = "users.import"
    USERS_EXPORT = "users.export"
    FACTOR_ENROLL = "factor.enroll"
    FACTOR_REMOVE = "factor.remove"
    FACTOR_COUNTER_ALERT = "factor.counter_alert"
    RECOVERY_CODES_GENERATE = "factor.recovery_codes_generate"
    RECOVERY_CODE_USE = "factor.recovery_code_use"
    DEVICE_TRUST = "factor.device_trust"
    IDENTITY_LINK = "identity.link"
    IDENTITY_UNLINK = "identity.unlink"
    API_KEY_CREATE = "api_key.create"
    API_KEY_REVOKE = "api_key.revoke"
    SESSION_KEY_ISSUE = "session_key.issue"
    TURN_CREDENTIALS_CREATE = "turn_credentials.create"
    SERVICE_TOKEN_ISSUE = "token.issue_service"  # noqa: S105 - an event's name
    TOKEN_EXCHANGE = "token.exchange"  # noqa: S105 - an event's name
    MESSAGE_ABANDON = "message.abandon"
    MESSAGE_RETRY = "message.retry"
    KEY_ROTATE = "key.rotate"
    KEY_REQUEST_ROTATION = "key.request_rotation"
    KEY_REVOKE = "key.revoke"
    POLICY_PUT = "policy.put"
    POLICY_DELETE = "policy.delete"
    POLICY_OVERRIDE_PUT = "policy.override_put"
    POLICY_OVERRIDE_DELETE = "policy.override_delete"
    ROLE_PUT = "role.put"
    ROLE_DELETE = "role.delete"
    DETECTION_RAISE = "detection.raise"
    INCIDENT_FREEZE = "incident.freeze"
    INCIDENT_UNFREEZE = "incident.unfreeze"
    INCIDENT_END_SESSIONS = "incident.end_sessions"
    INCIDENT_ROTATE_KEY = "incident.rotate_key"
    INCIDENT_REVOKE_KEY = "incident.revoke_key"
    INCIDENT_REQUIRE_PASSWORD_CHANGE = "incident.require_password_change"  # noqa: S105 - an event's name
    INCIDENT_EXPORT = "incident.export"
    KEY_RESEAL = "key.reseal"
    IP_BLOCK = "ip.block"
    IP_UNBLOCK = "ip.unblock"


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One event: what happened, who called, which user and session, and from which client.

    `detail` holds what is specific to the type, as `SCHEMA` declares it. It never contains a
    secret, nor an address or name that was typed in: people type passwords into the wrong field.
    The exception is a reason that an operator gave.
    """

    type: AuditType
    call: Call
    user_id: UserId | None = None
    session_id: SessionId | None = None
    client: ClientContext | None = None
    detail: Detail = field(default_factory=dict)


async def record_event(connection: Connection, now: datetime, event: AuditEvent) -> None:
    """Store the event in the caller's transaction and log it.

    The log line is written before the transaction ends; the stored event is authoritative.
    """
    impersonator = await audit.insert(connection, event_row(now, event))
    if impersonator is not None:
        event = replace(event, detail={**event.detail, "impersonator": impersonator})
    log_event(event)


def event_row(now: datetime, event: AuditEvent) -> AuditRow:
    """Return the event's row, for a statement that stores it along with other changes."""
    return AuditRow(
        event_id=uuid7(now),
        occur_time=now,
        type=event.type,
        call=event.call,
        user_id=event.user_id,
        session_id=event.session_id,
        client=event.client or _NO_CLIENT,
        detail=json.dumps(dict(declared(event.type, event.detail))),
    )


def log_event(event: AuditEvent) -> None:
    """Log an event that has been stored."""
    known = {
        "user_id": event.user_id and str(event.user_id),
        "session_id": event.session_id and str(event.session_id),
        "ip": event.client and event.client.ip,
        "detail": dict(declared(event.type, event.detail)),
    }
    log.info(
        "audit",
        type=event.type.value,
        caller=event.call.caller,
        request_id=event.call.request_id,
        **{name: value for name, value in known.items() if value},
    )
