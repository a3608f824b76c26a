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


_KEY = {"key_id": TEXT}
_FACTOR = {"factor": TEXT, "kind": TEXT}
_TOKEN = {"token_id": TEXT, "audiences": LIST, "scopes": LIST, "expire_time": TEXT}
_MESSAGE = {"message_id": TEXT, "kind": TEXT}

SCHEMA: Mapping[str, EventSchema] = MappingProxyType(
    {
        "user.register": EventSchema(
            "An account was registered, by its user or at a provider (`provider`).",
            {"provider": TEXT, "verified": BOOLEAN},
        ),
        "user.login": EventSchema(
            "A login succeeded and opened a session; `replaced` are the sessions that it ended.",
            {"methods": LIST, "replaced": LIST},
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
        "user.update": EventSchema("The user changed the account's name."),
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
            "A code was requested to reset the password.", {"purpose": TEXT}
        ),
        "user.password_reset": EventSchema("The password was reset; all sessions ended."),
        "user.code_request": EventSchema(
            "A one-time code was requested, to log in or to verify an address.", {"purpose": TEXT}
        ),
        "users.import": EventSchema(
            "A batch of users was imported.", {"imported": NUMBER, "skipped": NUMBER}
        ),
        "users.export": EventSchema("All users were exported.", {"with_passwords": BOOLEAN}),
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
        "key.revoke": EventSchema("A signing key was revoked, with all that it had signed.", _KEY),
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
    kind = known.get(name)
    if kind is None:
        return False
    if kind is NUMBER and isinstance(value, bool):
        return False
    # A text may be missing.
    return isinstance(value, _CLASSES[kind]) or (kind is TEXT and value is None)
