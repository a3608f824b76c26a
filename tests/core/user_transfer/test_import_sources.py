"""Exports of other systems are taken as they are, or one message names the step to do."""

import base64
import hashlib
import json
from typing import Any

import pytest
from argon2.low_level import Type, hash_secret_raw
from hypothesis import given, settings
from hypothesis import strategies as st

from authsvc.core.user_transfer.import_sources import as_row
from authsvc.core.user_transfer.importing import ImportOptions
from authsvc.errors import FieldInvalid
from tests.core.passwords.test_foreign_forms import PASSWORD, RAW, STRONG
from tests.core.passwords.test_foreign_hashes import FIREBASE, FIREBASE_HASH, FIREBASE_SALT
from tests.support.importing import Importer

ID = "018f0000-0000-7000-8000-000000000001"
SALT = b"0123456789abcdef"
BCRYPT = STRONG["Laravel, bcrypt"]


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def keycloak_user(name: str, value: bytes, **data: Any) -> dict[str, Any]:
    return {
        "id": ID[:-1] + str(len(name)),
        "createdTimestamp": 1714564800123,
        "username": name,
        "enabled": True,
        "totp": False,
        "emailVerified": True,
        "firstName": "Ada",
        "lastName": "Lovelace",
        "email": f"{name}@example.test",
        "credentials": [
            {
                "id": "c",
                "type": "password",
                "createdDate": 1714564800123,
                "secretData": json.dumps({"value": b64(value), "salt": b64(SALT)}),
                "credentialData": json.dumps(data),
            }
        ],
        "disableableCredentialTypes": [],
        "requiredActions": [],
        "realmRoles": ["admin", "default-roles-r"],
        "notBefore": 0,
        "groups": [],
    }


ARGON2 = hash_secret_raw(RAW, SALT, 5, 7168, 1, 32, Type.ID)
PBKDF2 = hashlib.pbkdf2_hmac("sha512", RAW, SALT, 20_000, 64)
KEYCLOAK = {
    "id": "r",
    "realm": "r",
    "roles": {"realm": [{"name": "admin", "users": [{"email": "x"}]}]},
    "users": [
        keycloak_user(
            "ada",
            ARGON2,
            hashIterations=5,
            algorithm="argon2",
            additionalParameters={
                "hashLength": ["32"],
                "memory": ["7168"],
                "type": ["id"],
                "version": ["1.3"],
                "parallelism": ["1"],
            },
        ),
        keycloak_user(
            "bo", PBKDF2, hashIterations=20_000, algorithm="pbkdf2-sha512", additionalParameters={}
        ),
        {"username": "federated", "email": "fed@example.test", "enabled": False, "credentials": []},
    ],
    "clients": [],
}
FIREBASE_USERS = {
    "users": [
        {
            "localId": "abc",
            "email": "ada@example.test",
            "emailVerified": True,
            "passwordHash": FIREBASE_HASH.replace("/", "_").replace("+", "-"),
            "salt": FIREBASE_SALT,
            "displayName": "Ada",
            "photoUrl": "https://example.test/a.png",
            "lastSignedInAt": "1714564900000",
            "createdAt": "1714564800000",
            "customAttributes": "{}",
            "providerUserInfo": [{"providerId": "password", "rawId": "ada@example.test"}],
        },
        {"localId": "d", "email": "bo@example.test", "disabled": True, "providerUserInfo": []},
        {"localId": "e", "phoneNumber": "+1555", "providerUserInfo": []},
    ]
}
KRATOS = [
    {
        "id": ID,
        "credentials": {
            "password": {
                "type": "password",
                "identifiers": ["ada@example.test"],
                "config": {"hashed_password": STRONG["passlib, argon2"]},
                "version": 0,
            }
        },
        "schema_id": "default",
        "schema_url": "https://example.test/schemas/ZGVmYXVsdA",
        "state": "active",
        "traits": {"email": "ada@example.test", "name": {"first": "Ada", "last": "Lovelace"}},
        "verifiable_addresses": [
            {"value": "ada@example.test", "verified": True, "via": "email", "status": "completed"}
        ],
        "metadata_public": None,
        "created_at": "2024-05-01T12:00:00.123456789Z",
    },
    {
        "credentials": {"oidc": {"type": "oidc", "identifiers": ["google:1"]}},
        "schema_id": "default",
        "state": "inactive",
        "traits": {"email": "bo@example.test"},
    },
]
AUTH0: list[dict[str, Any]] = [
    {
        "_id": {"$oid": "60425dc43519d90068f82973"},
        "email_verified": True,
        "email": "ada@example.test",
        "passwordHash": BCRYPT,
        "password_set_date": {"$date": "2021-03-05T16:35:16.775Z"},
        "tenant": "t",
        "connection": "Username-Password-Authentication",
        "_tmp_is_unique": True,
    },
    {
        "user_id": "google-oauth2|1",
        "email": "bo@example.test",
        "email_verified": False,
        "name": "Bo",
        "created_at": "2024-05-01T12:00:00.123Z",
        "blocked": True,
        "identities": [{"provider": "google-oauth2", "user_id": "1", "isSocial": True}],
    },
    {
        "email": "cy@example.test",
        "app_metadata": {},
        "custom_password_hash": {
            "algorithm": "pbkdf2",
            "hash": {"value": STRONG["passlib, pbkdf2_sha512"]},
        },
    },
    {
        "email": "di@example.test",
        "custom_password_hash": {
            "algorithm": "sha256",
            "hash": {"value": hashlib.sha256(b"salt" + RAW).hexdigest(), "encoding": "hex"},
            "salt": {"value": "salt", "position": "prefix"},
        },
    },
]
DJANGO = [
    {
        "model": "auth.user",
        "pk": 1,
        "fields": {
            "password": STRONG["Django, PBKDF2"],
            "username": "ada",
            "first_name": "Ada",
            "last_name": "",
            "email": "ada@example.test",
            "is_active": True,
            "is_superuser": True,
            "date_joined": "2024-05-01T12:00:00Z",
            "groups": [],
        },
    },
    {
        "model": "auth.user",
        "pk": 2,
        "fields": {"password": "!tjZuNtj1ig9MIQza1KY9gBMosPGqygoxV1aFsfjx", "email": "bo@x.test"},
    },
]
EMAILS = {"ada@example.test": True}
AUTH0_EMAILS = {"cy@example.test": True, "di@example.test": True, "bo@example.test": False}


@pytest.mark.parametrize(
    ("export", "emails", "failed"),
    [
        (KEYCLOAK, EMAILS | {"bo@example.test": True, "fed@example.test": False}, 0),
        (KRATOS, {"ada@example.test": True, "bo@example.test": False}, 0),
        (AUTH0, EMAILS | AUTH0_EMAILS, 0),
        (DJANGO, {"ada@example.test": True, "bo@x.test": False}, 0),
    ],
    ids=["Keycloak", "Kratos", "Auth0", "Django"],
)
async def test_export_is_taken_as_it_is(
    importer: Importer, export: Any, emails: dict[str, bool], failed: int
) -> None:
    for indent in (None, 2):
        data = json.dumps(export, indent=indent).encode()
        options = ImportOptions(accept_weak_hashes=True)
        counts = await importer.read(data, options)
        assert importer.failures == []
        assert (counts.imported + counts.skipped, counts.failed) == (len(emails), failed)
    stored = await importer.fetch("SELECT * FROM users ORDER BY email")
    assert {row["email"]: row["password_hash"] is not None for row in stored} == emails
    assert {tuple(row["roles"]) for row in stored} == {("user",)}
    exported = await importer.export()
    for row in exported:
        if "password_hash" in row:
            found = importer.hasher.take_over(row["password_hash"], row["pepper_id"])
            assert (await importer.hasher.verify(found, PASSWORD)).matches  # type: ignore[arg-type]
            assert not (await importer.hasher.verify(found, "x")).matches  # type: ignore[arg-type]


async def test_details_of_accounts_are_kept(importer: Importer) -> None:
    await importer.read(json.dumps(KEYCLOAK).encode(), ImportOptions())
    ada, bo, federated = sorted(await importer.export(), key=lambda row: str(row["email"]))
    assert ada["display_name"] == "Ada Lovelace"
    assert ada["user_id"] == ID[:-1] + "3"
    assert ada["create_time"] == "2024-05-01T12:00:00.123000+00:00"
    assert ada["email_verified"] is bo["email_verified"] is True
    assert federated["disabled"] is True


async def test_users_of_firebase_need_its_parameters(importer: Importer) -> None:
    data = json.dumps(FIREBASE_USERS).encode()
    with pytest.raises(FieldInvalid, match="--firebase-config"):
        await importer.read(data, ImportOptions())
    assert await importer.fetch("SELECT 1 FROM users") == []
    counts = await importer.read(data, ImportOptions(firebase=FIREBASE))
    assert (counts.imported, counts.failed) == (2, 1)
    assert [(row.field, row.description) for row in importer.failures] == [("email", "is missing")]
    rows = await importer.export()
    (row,) = [row for row in rows if "password_hash" in row]
    assert row["create_time"] == "2024-05-01T12:00:00+00:00"
    assert row["display_name"] == "Ada"
    assert row["password_hash"].startswith("$firebase-scrypt$")


WITHOUT_HASHES = {
    "Kratos": ({"id": ID, "schema_id": "d", "traits": {"email": "a@x.test"}}, "include_credential"),
    "Kratos with credentials": (
        {
            "schema_id": "d",
            "traits": {"email": "a@x.test"},
            "credentials": {"password": {"type": "password", "identifiers": ["a@x.test"]}},
        },
        "include_credential",
    ),
    "Keycloak": (
        {"id": ID, "createdTimestamp": 1, "username": "a", "email": "a@x.test"},
        "kc.sh export",
    ),
    "Auth0": ({"user_id": "auth0|1", "email": "a@x.test", "identities": []}, "support"),
}


@pytest.mark.parametrize(("user", "step"), WITHOUT_HASHES.values(), ids=WITHOUT_HASHES)
async def test_export_without_hashes_names_the_step_once(
    importer: Importer, user: dict[str, Any], step: str
) -> None:
    with pytest.raises(FieldInvalid, match=step) as refused:
        await importer.read(json.dumps([user] * 3).encode(), ImportOptions())
    assert "\n" not in refused.value.message
    assert importer.failures == []
    assert await importer.fetch("SELECT 1 FROM users") == []


@pytest.mark.parametrize(
    ("data", "step"),
    [
        (b"--\n-- PostgreSQL database dump\n--\n", "dump"),
        (b"PGDMP\x01\x0e", "dump"),
        (b"INSERT INTO users VALUES (1);", "dump"),
        (b"PK\x03\x04xl/workbook.xml", "spreadsheet"),
        (b"\x1f\x8b\x08\x00", "gunzip"),
        (b"dn: uid=ada,ou=people\n", "LDIF"),
        (b'<?xml version="1.0"?>', "XML"),
        (b"\xff\xfee\0m\0", "UTF-16"),
        (b"abc,ada@example.test,true," + b"," * 24 + b"\n", "firebase auth:export users.json"),
    ],
)
async def test_other_file_names_the_step(importer: Importer, data: bytes, step: str) -> None:
    with pytest.raises(FieldInvalid, match=step) as refused:
        await importer.read(data, ImportOptions())
    assert "ada@" not in str(refused.value)


_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=12), st.floats()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
_EXPORTED: list[Any] = [FIREBASE_USERS["users"], KRATOS, KEYCLOAK["users"], AUTH0, DJANGO]
_USERS: list[dict[str, Any]] = [user for users in _EXPORTED for user in users]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_user_is_a_row_or_refused(data: st.DataObject) -> None:
    user = json.loads(json.dumps(data.draw(st.sampled_from(_USERS))))
    target = user
    for _ in range(data.draw(st.integers(0, 3))):
        inner = [value for value in target.values() if isinstance(value, dict) and value]
        if inner:
            target = data.draw(st.sampled_from(inner))
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(_VALUES)
    try:
        row = as_row(user, has_firebase_parameters=True)
    except FieldInvalid as refused:
        message = refused.message
    else:
        assert isinstance(row, dict)
        message = ""
    assert "\n" not in message


def test_weak_hash_of_auth0_is_a_digest() -> None:
    row = as_row(AUTH0[3], has_firebase_parameters=False)
    assert row["password_hash"].startswith("$digest-sha256$i=1,s=prefix$")
