"""Signing keys: their loading at start, their algorithms, and how they are stored."""

import asyncio
import json
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from authsvc.config import TokenSettings
from authsvc.core.audit.recording import AuditType
from authsvc.core.lib.sealing import SealError
from authsvc.core.signing import jwk
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.errors import StoreUnavailable
from authsvc.models.signing import KeyState, SigningKeyInfo
from authsvc.models.tokens import Claims
from authsvc.store import signing_keys as store
from authsvc.store.postgres.database import Database
from authsvc.store.signing_keys import SigningKeyRow
from tests.support.clock import FakeClock
from tests.support.databases import settings_for
from tests.support.tokens import (
    CALL,
    audited,
    in_state,
    keyring,
    load_keys,
    make_session,
    published,
    token_settings,
    tokens_of,
)

# Start


async def test_first_start_creates_key(database: Database, clock: FakeClock) -> None:
    keys = await load_keys(database, clock)
    (info,) = await keys.list()
    assert info.key_id == keys.active.key_id
    assert info.state is KeyState.ACTIVE
    assert info.algorithm == "ES256"
    assert published(keys) == [info.key_id]
    assert await audited(database, AuditType.KEY_ROTATE) == [("system", info.key_id)]


async def test_next_start_reuses_key(database: Database, clock: FakeClock) -> None:
    first, second = await load_keys(database, clock), await load_keys(database, clock)
    token, _ = tokens_of(first, clock).issue(make_session(clock), clock.now())
    assert isinstance(tokens_of(second, clock).verify(token), Claims)
    assert len(await second.list()) == 1


@pytest.mark.slow
async def test_concurrently_starting_replicas_create_one_key(
    database_dsn: str, clock: FakeClock
) -> None:
    databases = [await Database.open(settings_for(database_dsn)) for _ in range(4)]
    replicas = await asyncio.gather(
        *(load_keys(database, clock) for database in databases for _ in range(5))
    )
    assert len({keys.active.key_id for keys in replicas}) == 1
    assert len(await replicas[0].list()) == 1
    assert len(await audited(databases[0], AuditType.KEY_ROTATE)) == 1
    for database in databases:
        await database.close()


async def test_key_that_keyring_cannot_open_prevents_start(
    database: Database, clock: FakeClock
) -> None:
    await load_keys(database, clock)
    stranger = SigningKeys(
        database=database, keyring=keyring("other"), settings=token_settings(), clock=clock
    )
    with pytest.raises(SealError, match="keyring"):
        await stranger.load()


async def test_nothing_is_signed_before_start(database: Database, clock: FakeClock) -> None:
    keys = SigningKeys(database=database, keyring=keyring(), settings=token_settings(), clock=clock)
    with pytest.raises(StoreUnavailable):
        _ = keys.active
    assert json.loads(keys.jwks()) == {"keys": []}


# Algorithms


def test_supported_algorithms_match_settings_schema() -> None:
    for algorithm in jwk.ALGORITHMS:
        assert token_settings(algorithm=algorithm).algorithm == algorithm
    literal = TokenSettings.model_json_schema()["properties"]["algorithm"]["enum"]
    assert set(literal) == set(jwk.ALGORITHMS)


@pytest.mark.parametrize("algorithm", jwk.ALGORITHMS)
async def test_each_algorithm_survives_a_restart(
    database: Database, clock: FakeClock, algorithm: str
) -> None:
    first = await load_keys(database, clock, algorithm=algorithm)
    token, _ = tokens_of(first, clock).issue(make_session(clock), clock.now())
    second = await load_keys(database, clock, algorithm=algorithm)
    assert second.active.key_id == first.active.key_id
    assert second.active.algorithm == algorithm
    assert isinstance(tokens_of(second, clock).verify(token), Claims)


async def test_symmetric_key_is_never_published(database: Database, clock: FakeClock) -> None:
    keys = await load_keys(database, clock, algorithm="HS256")
    await keys.rotate(CALL)
    assert published(keys) == []
    secret = keys.active.secret_bytes()
    assert keys.active.key_id.encode() not in secret
    assert keys.active.public_jwk is None


@pytest.mark.slow
async def test_changed_algorithm_is_adopted_at_start(database: Database, clock: FakeClock) -> None:
    session, issued = make_session(clock), []
    for algorithm in jwk.ALGORITHMS:
        keys = await load_keys(database, clock, algorithm=algorithm)
        assert keys.active.algorithm == algorithm
        issued.append(tokens_of(keys, clock).issue(session, clock.now())[0])
    tokens = tokens_of(keys, clock)
    assert all(isinstance(tokens.verify(token), Claims) for token in issued)
    assert len(await in_state(keys, KeyState.ACTIVE)) == 1


@pytest.mark.slow
async def test_replicas_with_different_algorithms_do_not_alternate(
    database: Database, clock: FakeClock
) -> None:
    old = await load_keys(database, clock, algorithm="ES256")
    new = await load_keys(database, clock, algorithm="EdDSA")
    for _ in range(5 * 60):
        clock.advance(timedelta(minutes=1))
        await old.maintain(CALL)
        await new.maintain(CALL)
    assert new.active.algorithm == "EdDSA"
    assert len(await audited(database, AuditType.KEY_ROTATE)) == 2


async def test_wrong_algorithm_is_replaced_after_lead_time(
    database: Database, clock: FakeClock
) -> None:
    new = await load_keys(database, clock, algorithm="EdDSA")
    await load_keys(database, clock, algorithm="ES256")
    await new.maintain(CALL)
    assert new.active.algorithm == "ES256"
    (prepared,) = await in_state(new, KeyState.PREPARED)
    assert prepared in published(new)
    clock.advance(timedelta(hours=1) - timedelta(seconds=1))
    await new.maintain(CALL)
    assert new.active.algorithm == "ES256"
    clock.advance(timedelta(seconds=1))
    await new.maintain(CALL)
    assert new.active.key_id == prepared


# Storage


async def test_secret_is_sealed_for_its_row(database: Database, clock: FakeClock) -> None:
    keys = await load_keys(database, clock)
    async with database.connection() as conn:
        (row,) = await store.list_all(conn)
    secret = keys.active.secret_bytes()
    assert secret not in row.sealed_key
    place = {"table": "signing_keys", "column": "sealed_key", "row": row.info.key_id}
    assert keyring().open(row.sealed_key, **place) == secret


async def test_secrets_are_hidden_in_repr(database: Database, clock: FakeClock) -> None:
    keys = await load_keys(database, clock, algorithm="HS256")
    async with database.connection() as conn:
        (row,) = await store.list_all(conn)
    key = keys.active
    for text in (repr(row), repr(key), repr(key.verifying_key), repr(await keys.list())):
        assert repr(key.secret_bytes()) not in text
        assert repr(row.sealed_key) not in text


async def test_key_sealed_under_older_keyring_entry_still_signs(
    database: Database, clock: FakeClock
) -> None:
    old = await load_keys(database, clock)
    both = SigningKeys(
        database=database, keyring=keyring("ring2", "ring1"), settings=token_settings(), clock=clock
    )
    await both.load()
    assert both.active.key_id == old.active.key_id


@pytest.mark.parametrize("moved_to", ["retired", "prepared"])
async def test_key_inserted_into_table_is_not_trusted(
    database: Database, clock: FakeClock, moved_to: str
) -> None:
    keys = await load_keys(database, clock)
    foreign = jwk.generate("ES256")
    place = {"table": "signing_keys", "column": "sealed_key", "row": foreign.key_id}
    forged = keyring("attacker").seal(foreign.secret_bytes(), **place)
    info = SigningKeyInfo(foreign.key_id, "ES256", KeyState(moved_to), clock.now())
    async with database.connection() as conn:
        assert await store.insert(conn, SigningKeyRow(info, forged))
    await keys.refresh()
    assert keys.find(foreign.key_id) is None
    assert keys.active.key_id in published(keys)
    assert foreign.key_id not in published(keys)


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE signing_keys SET algorithm = 'HS256'",
        "UPDATE signing_keys SET algorithm = 'EdDSA'",
        "UPDATE signing_keys SET algorithm = 'PS256'",
        "UPDATE signing_keys SET key_id = 'A'",
        "UPDATE signing_keys SET sealed_key = '\\x00'",
        "UPDATE signing_keys SET sealed_key = ''",
    ],
)
async def test_tampered_row_is_not_trusted(
    database: Database, clock: FakeClock, tampering: str
) -> None:
    first = await load_keys(database, clock)
    await first.rotate(CALL)
    async with database.connection() as conn:
        await conn.execute(f"{tampering} WHERE state = 'retired'")
    second = await load_keys(database, clock)
    trusted = [info.key_id for info in await second.list() if second.find(info.key_id)]
    assert trusted == published(second) == [first.active.key_id]


async def test_unreadable_active_key_can_be_rotated_away(
    database: Database, clock: FakeClock
) -> None:
    await load_keys(database, clock)
    keys = SigningKeys(
        database=database, keyring=keyring("other"), settings=token_settings(), clock=clock
    )
    assert await keys.rotate(CALL) == keys.active.key_id


async def test_unreadable_key_is_logged_once(database: Database, clock: FakeClock) -> None:
    await load_keys(database, clock)
    keys = SigningKeys(
        database=database, keyring=keyring("other"), settings=token_settings(), clock=clock
    )
    with capture_logs() as logs:
        for _ in range(3):
            await keys.refresh()
    assert [line["event"] for line in logs] == ["signing_key_unreadable"]


async def test_key_is_opened_once(database: Database, clock: FakeClock) -> None:
    keys = await load_keys(database, clock)
    opened = keys.active
    await keys.refresh()
    assert keys.active is opened
