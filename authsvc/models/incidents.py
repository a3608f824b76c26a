"""Owns what an incident is about: frozen ways to log in, and detections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from authsvc.models.ids import UserId


class LoginMethod(StrEnum):
    """A way into an account that can be frozen.

    A second factor completes a login and is frozen with the method that the login began with.
    """

    PASSWORD = "password"  # noqa: S105 - a method's name, not a password
    CODE = "code"
    PASSKEY = "passkey"
    FEDERATED = "federated"
    ISSUED = "issued"
    REGISTRATION = "registration"
    PASSWORD_RESET = "password_reset"  # noqa: S105 - a method's name, not a password


@dataclass(frozen=True, slots=True)
class LoginFreeze:
    """Logins by any of `methods` from `network` are refused until `expire_time`.

    Without methods, it holds for all of them; without a network, for every client.
    """

    freeze_id: UUID
    methods: tuple[LoginMethod, ...]
    network: str | None
    create_time: datetime
    expire_time: datetime
    created_by: str
    reason: str


# Of the events in a window, at most so many are counted.
MAX_DETECTION_COUNT = 50_000


class DetectionName(StrEnum):
    """What is looked for in the audit events."""

    PASSWORD_SPRAYING = "password_spraying"  # noqa: S105 - an attack's name
    CREDENTIAL_STUFFING = "credential_stuffing"
    MASS_PASSWORD_RESET = "mass_password_reset"  # noqa: S105 - an attack's name
    REFRESH_REUSE = "refresh_reuse"
    NEW_DEVICES = "new_devices"
    ADMIN_VOLUME = "admin_volume"
    KEY_COMPROMISE = "key_compromise"


@dataclass(frozen=True, slots=True)
class Detection:
    """Something that was detected: at least `threshold` within `window`.

    `subject` says what the events have in common (a network, a caller, a key), and is "" for the
    service as a whole.
    """

    name: DetectionName
    subject: str
    count: int
    threshold: int
    window: timedelta


@dataclass(frozen=True, slots=True)
class IncidentEvent:
    """A detection or a step of the incident kit, as it was recorded."""

    event_id: UUID
    occur_time: datetime
    type: str
    caller: str
    detail: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class PasswordSelection:
    """Users who have a password that may be used: all of them, or those who meet the criteria.

    With `user_ids`, these; otherwise those who logged in, by any method, from `since` until before
    `until` from `network`.
    """

    user_ids: Sequence[UserId] = ()
    since: datetime | None = None
    until: datetime | None = None
    network: str | None = None
