"""Owns the users in exports of other systems, as they are: each is recognized and made into a row.

| system   | export                                                                              |
|----------|-------------------------------------------------------------------------------------|
| Firebase | `firebase auth:export users.json`, with the project's parameters                    |
| Auth0    | the export of password hashes that its support makes; bulk imports of Auth0         |
| Keycloak | `kc.sh export` of a realm with its users                                            |
| Kratos   | identities with their credentials, as its admin API lists them                      |
| Django   | `manage.py dumpdata auth.user`                                                      |

Roles and second factors are not taken: what they meant there, they don't mean here.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from authsvc.errors import FieldInvalid

NO_USERS_IN_REALM = (
    "This export of a Keycloak realm has no users: export it with"
    " `kc.sh export --realm NAME --users same_file --file realm.json`."
)
_NO_FIREBASE_PARAMETERS = (
    "This is an export of Firebase, which needs the password hash parameters of the project"
    " (in the Firebase console under Authentication, Users): give them with --firebase-config,"
    " or in `firebase`."
)
_NO_KEYCLOAK_CREDENTIALS = (
    "These users of Keycloak have no credentials: export the realm with"
    " `kc.sh export --realm NAME --users same_file --file realm.json`."
)
_NO_KRATOS_HASHES = (
    "These identities of Kratos have no password hashes: list them with"
    " GET /admin/identities?include_credential=password, as the command line leaves them out."
)
_NO_AUTH0_HASHES = (
    "These users of Auth0 have no password hashes: ask its support for an export with hashes,"
    " or import only email, email_verified and display_name and have passwords reset."
)
_MALFORMED = (TypeError, ValueError, LookupError, AttributeError, OverflowError, RecursionError)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEYCLOAK_PBKDF2 = {"pbkdf2": "sha1", "pbkdf2-sha256": "sha256", "pbkdf2-sha512": "sha512"}
_DIGESTS = {"md5", "sha1", "sha256", "sha512"}
_COMPLETE_HASHES = {"argon2", "bcrypt", "ldap", "pbkdf2"}


class StepNeeded(FieldInvalid):
    """The file is an export from which something is missing; the message names the step to do."""

    def __init__(self, step: str) -> None:
        super().__init__("", step)


def as_row(values: Mapping[str, Any], *, has_firebase_parameters: bool) -> Mapping[str, Any]:
    """Return the row that a user of an export makes, or `values` if they are a row already.

    Raises:
        StepNeeded: It is from an export that can't be imported as it is.
        FieldInvalid: Its password is in a form that is not known.
    """
    row: Mapping[str, Any] | None = None
    try:
        if "localId" in values:
            row = _firebase(values, has_parameters=has_firebase_parameters)
        elif "traits" in values and {"schema_id", "credentials"} & set(values):
            row = _kratos(values)
        elif "username" in values and {"createdTimestamp", "credentials"} & set(values):
            row = _keycloak(values)
        elif _is_of_auth0(values):
            row = _auth0(values)
        elif values.get("model") == "auth.user" and isinstance(values.get("fields"), dict):
            row = _django(values["fields"])
    except _MALFORMED:
        raise FieldInvalid("", "is not a user as this system exports them") from None
    if row is None:
        return values
    return {name: value for name, value in row.items() if value not in (None, "")}


def _firebase(values: Mapping[str, Any], *, has_parameters: bool) -> Mapping[str, Any]:
    password_hash = values.get("passwordHash")
    if password_hash and not has_parameters:
        raise StepNeeded(_NO_FIREBASE_PARAMETERS)
    return {
        "email": values.get("email"),
        "display_name": values.get("displayName"),
        "email_verified": values.get("emailVerified"),
        "disabled": values.get("disabled"),
        "create_time": _from_milliseconds(values.get("createdAt")),
        "password_hash": password_hash,
        "salt": values.get("salt") if password_hash else None,
    }


def _keycloak(values: Mapping[str, Any]) -> Mapping[str, Any]:
    if "credentials" not in values:
        raise StepNeeded(_NO_KEYCLOAK_CREDENTIALS)
    passwords = [one for one in values["credentials"] or () if one.get("type") == "password"]
    return {
        "email": values.get("email"),
        "display_name": _joined(values.get("firstName"), values.get("lastName")),
        "email_verified": values.get("emailVerified"),
        "disabled": not values.get("enabled", True),
        "create_time": _from_milliseconds(values.get("createdTimestamp")),
        "user_id": values.get("id"),
        "password_hash": _keycloak_hash(passwords[0]) if passwords else None,
    }


def _keycloak_hash(credential: Mapping[str, Any]) -> str:
    if "secretData" not in credential:
        raise FieldInvalid("password_hash", "is a password in plain text")
    secret = json.loads(credential["secretData"])
    data = json.loads(credential["credentialData"])
    algorithm, iterations = data["algorithm"], int(data["hashIterations"])
    salt, value = _unpadded(secret["salt"]), _unpadded(secret["value"])
    if algorithm in _KEYCLOAK_PBKDF2:
        return f"$pbkdf2-{_KEYCLOAK_PBKDF2[algorithm]}$i={iterations}${salt}${value}"
    if algorithm == "argon2":
        more = {name: found[0] for name, found in data["additionalParameters"].items()}
        version = {"1.0": 16, "1.3": 19}[more.get("version", "1.3")]
        cost = f"m={int(more['memory'])},t={iterations},p={int(more['parallelism'])}"
        return f"$argon2{more.get('type', 'id')}$v={version}${cost}${salt}${value}"
    raise FieldInvalid("password_hash", "is of an algorithm that is not accepted")


def _kratos(values: Mapping[str, Any]) -> Mapping[str, Any]:
    traits = values["traits"]
    password = (values.get("credentials") or {}).get("password")
    identifiers = (password or {}).get("identifiers") or ()
    email = traits.get("email") or next((name for name in identifiers if "@" in name), None)
    password_hash = ((password or {}).get("config") or {}).get("hashed_password")
    if password_hash is None and (password is not None or "credentials" not in values):
        raise StepNeeded(_NO_KRATOS_HASHES)
    name = traits.get("name")
    if isinstance(name, Mapping):
        name = _joined(name.get("first"), name.get("last"))
    addresses = values.get("verifiable_addresses") or ()
    return {
        "email": email,
        "display_name": name,
        "email_verified": any(
            one["verified"] is True for one in addresses if one["value"] == email
        ),
        "disabled": values.get("state") == "inactive",
        "create_time": _to_microseconds(values.get("created_at")),
        "user_id": values.get("id"),
        "password_hash": password_hash,
    }


def _is_of_auth0(values: Mapping[str, Any]) -> bool:
    return (
        "passwordHash" in values
        or "custom_password_hash" in values
        or ("app_metadata" in values or "user_metadata" in values)
        or "|" in str(values.get("user_id", ""))
    )


def _auth0(values: Mapping[str, Any]) -> Mapping[str, Any]:
    password_hash = values.get("passwordHash") or values.get("password_hash")
    if custom := values.get("custom_password_hash"):
        password_hash = _auth0_hash(custom)
    if not password_hash and str(values.get("user_id", "")).startswith("auth0|"):
        raise StepNeeded(_NO_AUTH0_HASHES)
    created = values.get("created_at")
    return {
        "email": values.get("email"),
        "display_name": values.get("name")
        or _joined(values.get("given_name"), values.get("family_name")),
        "email_verified": values.get("email_verified"),
        "disabled": values.get("blocked"),
        "create_time": _to_microseconds(created) if isinstance(created, str) else None,
        "password_hash": password_hash,
    }


def _auth0_hash(custom: Mapping[str, Any]) -> str:
    algorithm, value = custom["algorithm"], custom["hash"]["value"]
    if algorithm in _COMPLETE_HASHES:
        return str(value)
    if algorithm in _DIGESTS:
        salt = custom.get("salt") or {"value": ""}
        order = "prefix" if salt.get("position", "prefix") == "prefix" else "suffix"
        digest = _bytes(value, custom["hash"].get("encoding", "hex"))
        salt64, digest64 = _base64(_bytes(salt["value"], salt.get("encoding", "utf8"))), digest
        return f"$digest-{algorithm}$i=1,s={order}${salt64}${_base64(digest64)}"
    raise FieldInvalid("password_hash", "is of an algorithm that is not accepted")


def _django(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "email": fields.get("email"),
        "display_name": _joined(fields.get("first_name"), fields.get("last_name")),
        "disabled": not fields.get("is_active", True),
        "create_time": _to_microseconds(fields.get("date_joined")),
        "password_hash": fields["password"],
    }


def _joined(*names: str | None) -> str:
    return " ".join(name for name in names if name)


def _from_milliseconds(value: str | int | None) -> str | None:
    if value is None:
        return None
    return (_EPOCH + timedelta(milliseconds=int(value))).isoformat(timespec="milliseconds")


def _to_microseconds(value: str | None) -> str | None:
    """Return a time in RFC 3339 without what Go writes beyond microseconds."""
    if value is None:
        return None
    time = datetime.fromisoformat(value)
    return (time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)).isoformat()


def _bytes(text: str, encoding: str) -> bytes:
    decoders: Mapping[str, Callable[[str], bytes]] = {
        "hex": bytes.fromhex,
        "base64": lambda text: b64decode(text, validate=True),
        "utf8": str.encode,
    }
    return decoders[encoding](text)


def _base64(value: bytes) -> str:
    return _unpadded(b64encode(value).decode())


def _unpadded(text: str) -> str:
    return text.rstrip("=")
