"""Owns the schema of audit events: what each type means, and which details it may have.

docs/audit-events.md is held to it. A detail that isn't declared here is not recorded: nothing gets
into the log, nor to where it is forwarded, that nobody has thought about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

import structlog

log = structlog.get_logger("audit")

DetailValue: TypeAlias = str | int | bool | Sequence[str]
Detail: TypeAlias = Mapping[str, DetailValue]

TEXT, NUMBER, BOOLEAN, LIST = "text", "number", "boolean", "list of texts"
_CLASSES: Mapping[str, type | tuple[type, ...]] = MappingProxyType(
    {TEXT: str, NUMBER: int, BOOLEAN: bool, LIST: (list, tuple)}
)


class UndeclaredDetailError(Exception):
    """An event has a detail that its schema doesn't declare, or one of another type."""


@dataclass(frozen=True, slots=True)
class EventSchema:
    """One type of event: its meaning, and its details by name, each with its type."""

    meaning: str
    details: Mapping[str, str] = field(default_factory=dict)


# Of the events of impersonated sessions, whatever their type: added when an event is stored.
_OF_ANY_TYPE = {"impersonator": TEXT}
_KEY = {"key_id": TEXT}
_FACTOR = {"factor": TEXT, "kind": TEXT}
_TOKEN = {"token_id": TEXT, "audiences": LIST, "scopes": LIST, "expire_time": TEXT}
_OVERRIDE = {"policy": TEXT, "key_sha256": TEXT}
_FREEZE = {"freeze_id": TEXT, "methods": LIST, "network": TEXT}
_MESSAGE = {"message_id": TEXT, "kind": TEXT}

SCHEMA: Mapping[str, EventSchema] = MappingProxyType(
    {
        "user.register": EventSchema(
            "An account was registered, by its user or at a provider (`provider`).",
            {"provider": TEXT, "verified": BOOLEAN},
        ),
        "user.login": EventSchema(
            "A login succeeded and opened a session; `replaced` are the sessions that it ended, and"
            " `new_device` says that the user never logged in from the device before.",
            {"methods": LIST, "replaced": LIST, "new_device": BOOLEAN},
        ),
        "user.login_failure": EventSchema(
            "An attempt to log in, or to prove a credential, failed. Without a user if the account"
            " doesn't exist.",
            {"cause": TEXT, "provider": TEXT},
        ),
        "user.login_throttled": EventSchema(
            "Attempts were refused without being evaluated: there were too many. Recorded once a"
            " minute for each account and address."
        ),
        "user.mfa_required": EventSchema(
            "The first factor was proved and a second one is needed; `enrollment` if it has to be"
            " enrolled first.",
            {"methods": LIST, "enrollment": BOOLEAN},
        ),
        "user.create": EventSchema("An operator created an account.", {"verified": BOOLEAN}),
        "user.disable": EventSchema("An operator disabled an account; all its sessions ended."),
        "user.enable": EventSchema("An operator enabled an account again."),
        "user.update": EventSchema(
            "The user changed the account's name, or an operator its `fields`.", {"fields": LIST}
        ),
        "user.roles_set": EventSchema(
            "An operator changed the roles of a user.", {"added": LIST, "removed": LIST}
        ),
        "user.unlock": EventSchema("An operator had the failed logins of a user forgotten."),
        "user.password_change_require": EventSchema(
            "An operator decided that a user's password opens no more sessions until it is changed."
        ),
        "user.delete": EventSchema("An account was erased, with the personal data of its events."),
        "user.data_export": EventSchema("The user exported all data held on the account."),
        "user.owner_arrived": EventSchema(
            "The owner of an address took over an account that somebody else had registered."
        ),
        "user.email_verify": EventSchema("The account's address was verified."),
        "user.email_change_request": EventSchema(
            "A code was requested to change the address.", {"purpose": TEXT}
        ),
        "user.email_change": EventSchema("The account's address was changed."),
        "user.password_change": EventSchema("The user changed the password."),
        "user.password_reset_request": EventSchema(
            "A code was requested to reset the password, by the user or an operator (`delivery`).",
            {"purpose": TEXT, "delivery": TEXT},
        ),
        "user.password_reset": EventSchema("The password was reset; all sessions ended."),
        "user.code_request": EventSchema(
            "A one-time code was requested, to log in or to verify an address.", {"purpose": TEXT}
        ),
        "users.import": EventSchema(
            "A batch of users was imported.", {"imported": NUMBER, "skipped": NUMBER}
        ),
        "users.export": EventSchema(
            "All users were exported, or the rest of them (`resumed`).",
            {"with_passwords": BOOLEAN, "resumed": BOOLEAN},
        ),
        "session.create": EventSchema(
            "A caller opened a session for a user whom it had authenticated itself.",
            {"methods": LIST, "replaced": LIST},
        ),
        "session.refresh": EventSchema(
            "New tokens were issued for a session; `repeated` if the current ones were issued again"
            " for an answer that got lost.",
            {"repeated": BOOLEAN, "lost_answer": BOOLEAN},
        ),
        "session.refresh_reuse": EventSchema(
            "An old refresh token was used again: somebody may have copied it. The session ended."
        ),
        "session.logout": EventSchema("The user ended the session."),
        "session.revoke": EventSchema(
            "A session, or several of a user (`sessions`), were ended.",
            {"reason": TEXT, "sessions": LIST},
        ),
        "session.revoke_all": EventSchema(
            "An operator ends all sessions that meet the criteria. At the `stage` begin it says"
            " what was asked for, at the stage end how many sessions ended.",
            {
                "stage": TEXT,
                "count": NUMBER,
                "created_before": TEXT,
                "created_after": TEXT,
                "network": TEXT,
                "authentication_method": TEXT,
                "users": LIST,
                "impersonated_only": BOOLEAN,
            },
        ),
        "session.impersonate": EventSchema(
            "An operator opened a session in the name of a user. Every event of that session has"
            " `impersonator`, the operator's caller.",
            {"impersonator": TEXT, "reason": TEXT, "expire_time": TEXT},
        ),
        "session_key.issue": EventSchema(
            "A public key was attested for a session.",
            {**_KEY, "kind": TEXT, "purpose": TEXT, "expire_time": TEXT},
        ),
        "turn_credentials.create": EventSchema(
            "Credentials for TURN servers were made for a session.", {"expire_time": TEXT}
        ),
        "factor.enroll": EventSchema("A second factor was enrolled.", _FACTOR),
        "factor.remove": EventSchema("A second factor was removed.", _FACTOR),
        "factor.counter_alert": EventSchema(
            "A passkey's counter went back: it may have been copied.",
            {"factor": TEXT, "accepted": BOOLEAN},
        ),
        "factor.recovery_codes_generate": EventSchema("New recovery codes replaced the old ones."),
        "factor.recovery_code_use": EventSchema("A recovery code was used as the second factor."),
        "factor.device_trust": EventSchema(
            "A device was trusted, so that it needs no second factor for a while."
        ),
        "identity.link": EventSchema(
            "An identity at a provider was linked to the account.", {"provider": TEXT}
        ),
        "identity.unlink": EventSchema(
            "An identity at a provider was unlinked from the account.", {"provider": TEXT}
        ),
        "api_key.create": EventSchema(
            "The user created an API key.",
            {**_KEY, "scopes": LIST, "policy": TEXT, "expire_time": TEXT},
        ),
        "api_key.revoke": EventSchema("The user revoked an API key.", _KEY),
        "token.issue_service": EventSchema("A caller got an access token for itself.", _TOKEN),
        "token.exchange": EventSchema(
            "A caller exchanged a user's access token for a narrower one.",
            {**_TOKEN, "from_token_id": TEXT},
        ),
        "message.abandon": EventSchema(
            "A message to a user was given up.", {**_MESSAGE, "error": TEXT}
        ),
        "message.retry": EventSchema(
            "An operator had a message sent again that had been given up.", _MESSAGE
        ),
        "key.rotate": EventSchema(
            "Another signing key signs from now on.", {**_KEY, "algorithm": TEXT}
        ),
        "key.request_rotation": EventSchema(
            "The signing key is to be replaced as soon as the next one has been published for"
            " `tokens.key_publish_lead`.",
            _KEY,
        ),
        "key.revoke": EventSchema("A signing key was revoked, with all that it had signed.", _KEY),
        "key.reseal": EventSchema(
            "An operator began to seal everything with the newest key of the keyring.", _KEY
        ),
        "policy.put": EventSchema(
            "A policy was defined at run time, or changed.",
            {
                "policy": TEXT,
                "algorithm": TEXT,
                "requests": NUMBER,
                "window_seconds": TEXT,
                "burst": NUMBER,
                "durable": BOOLEAN,
                "unlimited": BOOLEAN,
                "shadow": BOOLEAN,
            },
        ),
        "policy.delete": EventSchema("A policy defined at run time was deleted.", {"policy": TEXT}),
        "policy.override_put": EventSchema(
            "Something else was made to hold for one key of a policy.",
            {**_OVERRIDE, "effect": TEXT, "requests": NUMBER, "burst": NUMBER, "expire_time": TEXT},
        ),
        "policy.override_delete": EventSchema("An override was deleted.", _OVERRIDE),
        "role.put": EventSchema(
            "A role was defined at run time, or changed. Lifetimes are there where they are set.",
            {
                "role": TEXT,
                "permissions": LIST,
                "requires_second_factor": BOOLEAN,
                "idle_lifetime_seconds": TEXT,
                "absolute_lifetime_seconds": TEXT,
                "access_token_lifetime_seconds": TEXT,
            },
        ),
        "role.delete": EventSchema(
            "A role defined at run time was deleted; `user_count` users had it.",
            {"role": TEXT, "user_count": NUMBER},
        ),
        "ip.block": EventSchema(
            "A network was blocked, by an operator or, if `automatic`, because of its violations.",
            {"network": TEXT, "until": TEXT, "reason": TEXT, "automatic": BOOLEAN},
        ),
        "ip.unblock": EventSchema("The block of a network was lifted.", {"network": TEXT}),
        "detection.raise": EventSchema(
            "A detection found more than its threshold allows. The network is the event's `ip` with"
            " `prefix`; `subject` is what else it is about.",
            {
                "detection": TEXT,
                "count": NUMBER,
                "threshold": NUMBER,
                "window_seconds": NUMBER,
                "prefix": NUMBER,
                "subject": TEXT,
            },
        ),
        "incident.freeze": EventSchema(
            "Logins were frozen.", {**_FREEZE, "expire_time": TEXT, "reason": TEXT}
        ),
        "incident.unfreeze": EventSchema("A freeze was lifted.", {**_FREEZE, "reason": TEXT}),
        "incident.end_sessions": EventSchema(
            "Sessions were ended because of an incident.", {"count": NUMBER, "reason": TEXT}
        ),
        "incident.rotate_key": EventSchema(
            "The signing key was rotated because of an incident.", {**_KEY, "reason": TEXT}
        ),
        "incident.revoke_key": EventSchema(
            "A signing key was revoked because of an incident.", {**_KEY, "reason": TEXT}
        ),
        "incident.require_password_change": EventSchema(
            "Users were made to change their passwords because of an incident.",
            {"count": NUMBER, "reason": TEXT},
        ),
        "incident.export": EventSchema(
            "The evidence of a time span was exported.",
            {"since": TEXT, "until": TEXT, "checksum": TEXT, "reason": TEXT},
        ),
    }
)

_UNKNOWN = EventSchema("")
# Whether what is not declared is an error, as in tests; in service it is left out and logged.
strict = False


def declared(event_type: str, detail: Detail) -> Detail:
    """Return the details that the type's schema declares.

    Raises:
        UndeclaredDetailError: There are others, and `strict` is set.
    """
    known = SCHEMA.get(event_type, _UNKNOWN).details
    if all(_is_declared(known, name, value) for name, value in detail.items()):
        return detail
    undeclared = [n for n, value in detail.items() if not _is_declared(known, n, value)]
    if strict:
        raise UndeclaredDetailError(f"{event_type}: {', '.join(undeclared)}")
    log.error("audit_detail_undeclared", type=event_type, details=undeclared)
    return {name: value for name, value in detail.items() if name not in undeclared}


def _is_declared(known: Mapping[str, str], name: str, value: object) -> bool:
    kind = known.get(name) or _OF_ANY_TYPE.get(name)
    if kind is None:
        return False
    if kind is NUMBER and isinstance(value, bool):
        return False
    # A text may be missing.
    return isinstance(value, _CLASSES[kind]) or (kind is TEXT and value is None)
