"""The login by password: the session it opens, its cost, and what it records."""

import json
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest

from authsvc.config import PasswordSettings
from authsvc.core.passwords.hashing import PasswordHash, Verification
from authsvc.errors import FieldInvalid, Reason
from authsvc.models.calls import ClientContext
from authsvc.store import login_freezes
from authsvc.store.postgres.database import Database
from tests.support.accounts import CALL, EMAIL, IP, OTHER_IP, PASSWORD, WRONG, Service, unlimited
from tests.support.logins import ONE, PHONE, Replicas, causes, value


async def test_each_login_opens_its_own_session(free: Service) -> None:
    client = ClientContext(IP, "Test", PHONE)
    first = await free.log_in(CALL, EMAIL, PASSWORD, client)
    second = await free.log_in(CALL, EMAIL.upper(), PASSWORD, client)
    for name in ("session_id", "session_token", "csrf_token", "refresh_token", "access_token"):
        assert getattr(first, name) != getattr(second, name)
    session = await free.sessions.listing.get(first.session_id)
    assert session.user_id == first.user_id
    assert session.client == client
    assert session.authentication_methods == ("pwd",)


@pytest.mark.parametrize("password", [PASSWORD, WRONG])
async def test_logins_frozen_while_a_password_waits_to_be_hashed_refuse_it(
    free: Service, database: Database, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    verify = free.hasher.verify

    async def late(stored: PasswordHash | None, given: str) -> Verification:
        result = await verify(stored, given)
        async with database.transaction() as connection:
            await login_freezes.upsert(
                connection, uuid4(), [], None, timedelta(hours=1), "cli:test", "drill"
            )
        return result

    monkeypatch.setattr(free.hasher, "verify", late)
    assert await free.login(password) == "LOGIN_FROZEN"


@pytest.mark.slow
async def test_default_hash_cost_is_applied(replicas: Replicas, database: Database) -> None:
    service = await replicas.start(unlimited(), PasswordSettings())
    await service.register()
    stored = await value(database, "SELECT password_hash FROM users")
    assert str(stored).startswith("v1$argon2id$v=19$m=19456,t=2,p=1$")
    assert await service.login(WRONG) == "CREDENTIALS_INVALID"
    assert await service.login() == "OK"


@pytest.mark.parametrize(
    ("email", "password", "reason"),
    [
        ("no address", PASSWORD, "EMAIL_INVALID"),
        (EMAIL, "with\0NUL", "FIELD_INVALID"),
        (EMAIL, "ﷺ" * 60, "FIELD_INVALID"),
    ],
    ids=["address", "NUL", "too long in NFKC"],
)
async def test_malformed_credentials_cost_no_attempt(
    replicas: Replicas, database: Database, email: str, password: str, reason: str
) -> None:
    service = await replicas.start(unlimited(per_ip=ONE))
    await service.register()
    for _ in range(3):
        assert await service.login(password, email=email) == reason
    assert await service.login() == "OK"
    assert await causes(database) == {"login:": 1}
    await service.database.close()
    assert await service.login() == "STORE_UNAVAILABLE"
    assert await service.login(password, email=email) == reason


async def test_every_outcome_is_recorded(limited: Service, database: Database) -> None:
    client = ClientContext(IP, "Test", PHONE)
    tokens = await limited.log_in(CALL, EMAIL, PASSWORD, client)
    for _ in range(6):
        await limited.login(WRONG)
    await limited.login(email="nobody@example.test", ip=OTHER_IP)
    assert await causes(database) == {
        "login:": 1,
        "login_failure:password": 5,
        "login_failure:unknown": 1,
        "login_throttled:": 1,
    }
    async with database.connection() as conn:
        rows = await conn.fetch("SELECT * FROM audit_events WHERE type LIKE 'user.login%'")
    for row in rows:
        assert (row["caller"], row["request_id"]) == (CALL.caller, CALL.request_id)
        assert row["user_agent"] == "Test"
        unknown = "unknown" in row["detail"]
        assert row["user_id"] == (None if unknown else tokens.user_id)
        assert str(row["ip"]) == (OTHER_IP if unknown else IP)
        expected = tokens.session_id if row["type"] == "user.login" else None
        assert row["session_id"] == expected


async def test_audit_events_contain_no_secret_or_address(
    limited: Service, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    client = ClientContext(IP, "Test", PHONE)
    tokens = await limited.log_in(CALL, EMAIL, PASSWORD, client)
    for _ in range(6):
        await limited.login(WRONG)
    await limited.login(email="nobody@example.test")
    async with database.connection() as conn:
        rows: list[asyncpg.Record] = await conn.fetch("SELECT * FROM audit_events")
        stored = await conn.fetchval("SELECT password_hash FROM users")
    assert len(rows) >= 9
    written = json.dumps([dict(row) for row in rows], default=str) + "".join(capsys.readouterr())
    secrets = [EMAIL, EMAIL.lower(), "nobody@example.test", PASSWORD, WRONG, PHONE, stored]
    secrets += [tokens.access_token, tokens.refresh_token, tokens.session_token, tokens.csrf_token]
    for secret in secrets:
        assert secret not in written


async def test_invalid_field_is_named(limited: Service) -> None:
    with pytest.raises(FieldInvalid) as refused:
        await limited.log_in(CALL, "no address", PASSWORD, ClientContext())
    assert refused.value.reason is Reason.EMAIL_INVALID
    assert [violation.field for violation in refused.value.violations] == ["email"]
