"""Owns the fields of an imported row: each is parsed into its type or rejected.

Error descriptions never show a value, as their readers need not see personal data; the names of
unknown fields and roles are shown.
"""

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from authsvc.core.lib.emails import Email, is_of_a_directory, parse_email
from authsvc.core.passwords.foreign_hashes import FirebaseParameters, HashRefused, firebase_hash
from authsvc.core.passwords.foreign_schemes import ForeignHash
from authsvc.core.passwords.hashing import PasswordHash
from authsvc.core.roles.permissions import DEFAULT_ROLES, Permissions
from authsvc.core.user_transfer.import_rows import FIELDS
from authsvc.core.user_transfer.import_sources import as_row
from authsvc.errors import FieldInvalid, quoted_names
from authsvc.models.ids import UserId

TakeOver = Callable[[str, str | None], PasswordHash | ForeignHash]

_MAX_ROLES = 32
_MAX_DISPLAY_NAME = 256
_MAX_TEXT = 1024
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_TOLERANCE = timedelta(days=1)

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_ROLE = re.compile(r"[a-z][a-z0-9_-]{0,31}", re.ASCII)
_TIME = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)
# What Django stores for a user who has no password.
_UNUSABLE = "!"
_FIREBASE = ("base64_signer_key", "base64_salt_separator", "rounds", "mem_cost")
_FIREBASE_LINE = re.compile(r"(\w+):\s*([^\s,{}]*)", re.ASCII)
_INTEGER = re.compile(r"[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ImportedUser:
    """A user as described by a row; `user_id` and `create_time` are None if not given.

    `password` is a `ForeignHash` if it is weak and has to be wrapped before it is stored.
    """

    email: Email = field(repr=False)
    display_name: str = field(repr=False)
    verified: bool
    roles: tuple[str, ...]
    password: PasswordHash | ForeignHash | None
    disabled: bool
    create_time: datetime | None
    user_id: UserId | None


@dataclass(frozen=True, slots=True)
class RowParser:
    """Parses rows into users.

    `take_over` converts a hash to its stored form; `firebase` applies to rows without their own
    parameters; `permissions` knows the roles; `now` is the current time, after which no account can
    have been created. `directory_domains` accepts addresses of private networks.
    """

    take_over: TakeOver
    firebase: FirebaseParameters | None
    permissions: Permissions
    now: datetime
    directory_domains: bool = False

    def parse(self, values: Mapping[str, Any]) -> ImportedUser:
        """Return the user that a row describes.

        Raises:
            FieldInvalid: A field is invalid or unknown.
            StepNeeded: The file as a whole can't be imported as it is.
        """
        values = as_row(values, has_firebase_parameters=self.firebase is not None)
        if unknown := [name for name in values if name not in FIELDS]:
            raise FieldInvalid("", f"has unknown fields: {quoted_names(unknown)}")
        return ImportedUser(
            email=self._email(values),
            display_name=_text(values, "display_name", _MAX_DISPLAY_NAME),
            verified=_boolean(values, "email_verified"),
            roles=self._roles(values),
            password=self._password(values),
            disabled=_boolean(values, "disabled"),
            create_time=self._create_time(values),
            user_id=_user_id(values),
        )

    def _email(self, values: Mapping[str, Any]) -> Email:
        text = _text(values, "email", _MAX_TEXT)
        if not text:
            raise FieldInvalid("email", "is missing")
        try:
            email = parse_email(text)
        except FieldInvalid:
            # The library's message may show the address.
            raise FieldInvalid("email", "is not an e-mail address") from None
        if is_of_a_directory(email) and not self.directory_domains:
            raise FieldInvalid(
                "email", "has the domain of a private network; set emails.directory_domains"
            )
        return email

    def _password(self, values: Mapping[str, Any]) -> PasswordHash | ForeignHash | None:
        text = _text(values, "password_hash", _MAX_TEXT)
        pepper_id = _text(values, "pepper_id", _MAX_TEXT) or None
        salt = _text(values, "salt", _MAX_TEXT)
        of_firebase = bool(salt) or values.get("firebase") is not None
        if not text or text.startswith(_UNUSABLE):
            if pepper_id or of_firebase:
                raise FieldInvalid("password_hash", "is missing")
            return None
        try:
            if of_firebase:
                parameters = self._firebase(values)
                text = firebase_hash(parameters, salt, text).text
            return self.take_over(text, pepper_id)
        except HashRefused as error:
            raise FieldInvalid("password_hash", str(error)) from None

    def _firebase(self, values: Mapping[str, Any]) -> FirebaseParameters:
        own = values.get("firebase")
        if own is not None:
            return firebase_parameters(own)
        if self.firebase is None:
            raise FieldInvalid("salt", "needs the parameters of the Firebase project")
        return self.firebase

    def _roles(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        roles = values.get("roles")
        if roles is None:
            return DEFAULT_ROLES
        if not isinstance(roles, list) or len(roles) > _MAX_ROLES:
            raise FieldInvalid("roles", f"is not a list of at most {_MAX_ROLES} names")
        if not all(isinstance(role, str) and _ROLE.fullmatch(role) for role in roles):
            raise FieldInvalid("roles", "contains an invalid role name")
        self.permissions.check_defined(roles)
        return tuple(dict.fromkeys(roles))

    def _create_time(self, values: Mapping[str, Any]) -> datetime | None:
        text = _text(values, "create_time", _MAX_TEXT)
        if not text:
            return None
        time = _time(text)
        if time is None:
            raise FieldInvalid("create_time", "is not a time such as 2024-05-01T12:00:00Z")
        if not _EARLIEST <= time <= self.now + _TOLERANCE:
            raise FieldInvalid("create_time", "is before 1970 or in the future")
        return time


def firebase_parameters(values: object) -> FirebaseParameters:
    """Return the parameters in an object with the names shown in Firebase's console.

    Raises:
        FieldInvalid: One is missing or invalid.
    """
    if not isinstance(values, Mapping) or set(values) - {"algorithm"} != set(_FIREBASE):
        raise FieldInvalid("firebase", f"has to have {', '.join(_FIREBASE)}")
    if values.get("algorithm", "SCRYPT") != "SCRYPT":
        raise FieldInvalid("firebase", "has an algorithm other than SCRYPT")
    rounds, mem_cost = values["rounds"], values["mem_cost"]
    if type(rounds) is not int or type(mem_cost) is not int:
        raise FieldInvalid("firebase", "has rounds or a mem_cost that is not a number")
    return FirebaseParameters(
        _base64(values["base64_signer_key"]),
        _base64(values["base64_salt_separator"]),
        rounds,
        mem_cost,
    )


def firebase_parameters_of(text: str) -> FirebaseParameters:
    """Return the parameters in `text`: JSON, or the lines shown in Firebase's console.

    Raises:
        FieldInvalid: As for `firebase_parameters`.
    """
    text = text.removeprefix("\ufeff")
    try:
        values: object = json.loads(text)
    except (ValueError, RecursionError):
        values = {
            name: int(value) if _INTEGER.fullmatch(value) else value
            for name, value in _FIREBASE_LINE.findall(text)
        }
    return firebase_parameters(values)


def _base64(text: object) -> bytes:
    try:
        if not isinstance(text, str):
            return _refuse_base64()
        return b64decode(text.removeprefix("\ufeff").strip(), validate=True)
    except (binascii.Error, ValueError):
        return _refuse_base64()


def _refuse_base64() -> bytes:
    raise FieldInvalid("firebase", "has a key or separator that is not base64")


def _text(values: Mapping[str, Any], name: str, max_bytes: int) -> str:
    value = values.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise FieldInvalid(name, "is not text")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise FieldInvalid(name, "is not valid Unicode") from None
    if length > max_bytes:
        raise FieldInvalid(name, f"is longer than {max_bytes} bytes")
    if "\0" in value:
        raise FieldInvalid(name, "contains a NUL character")
    return value


def _time(text: str) -> datetime | None:
    if not _TIME.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _boolean(values: Mapping[str, Any], name: str) -> bool:
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise FieldInvalid(name, "is neither true nor false")
    return bool(value)


def _user_id(values: Mapping[str, Any]) -> UserId | None:
    text = _text(values, "user_id", _MAX_TEXT)
    if not text:
        return None
    if not _UUID.fullmatch(text):
        raise FieldInvalid("user_id", "is not a UUID in lower case")
    return UserId(UUID(text))
