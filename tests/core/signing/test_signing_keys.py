"""Signing keys: their loading at start, their algorithms, and how they are stored."""

import asyncio
import json
from datetime import timedelta

import joserfc.jwt
import jwt
import pytest
from joserfc.jwk import KeySet
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
    by_state = {info.state: info for info in await keys.list()}
    # The next one is published from the start.
    assert by_state.keys() == {KeyState.ACTIVE, KeyState.PREPARED}
    info = by_state[KeyState.ACTIVE]
    assert info.key_id == keys.active.key_id
    assert info.algorithm == "ES256"
    assert info.activate_time == clock.now()
    assert by_state[KeyState.PREPARED].activate_time == clock.now() + timedelta(days=30)
    assert set(published(keys)) == {key.key_id for key in by_state.values()}
    assert await audited(database, AuditType.KEY_ROTATE) == [("system", info.key_id)]


async def test_next_start_reuses_key(database: Database, clock: FakeClock) -> None:
    first, second = await load_keys(database, clock), await load_keys(database, clock)
    token, _ = await tokens_of(first, clock).issue(make_session(clock), clock.now())
    assert isinstance(tokens_of(second, clock).verify(token), Claims)
    assert len(await second.list()) == 2


@pytest.mark.slow
async def test_concurrently_starting_replicas_create_one_key(
    database_dsn: str, clock: FakeClock
) -> None:
    databases = [await Database.open(settings_for(database_dsn)) for _ in range(4)]
    replicas = await asyncio.gather(
        *(load_keys(database, clock) for database in databases for _ in range(5))
    )
    assert len({keys.active.key_id for keys in replicas}) == 1
    assert len(await replicas[0].list()) == 2
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
    token, _ = await tokens_of(first, clock).issue(make_session(clock), clock.now())
    second = await load_keys(database, clock, algorithm=algorithm)
    assert second.active.key_id == first.active.key_id
    assert second.active.algorithm == algorithm
    assert isinstance(tokens_of(second, clock).verify(token), Claims)


async def test_symmetric_key_is_never_published(database: Database, clock: FakeClock) -> None:
    keys = await load_keys(database, clock, algorithm="HS256")
    await keys.rotate(CALL, now=True)
    assert published(keys) == []
    secret = keys.active.secret_bytes()
    assert keys.active.key_id.encode() not in secret
    assert keys.active.public_jwk is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
async def test_tokens_of_all_algorithms_verify_during_changes(
    database: Database, clock: FakeClock
) -> None:
    session, issued, before = make_session(clock), list[str](), None
    lifetime = {"access_lifetime": "1d"}
    for algorithm in jwk.ALGORITHMS:
        keys = await load_keys(database, clock, algorithm=algorithm, **lifetime)
        tokens = tokens_of(keys, clock, **lifetime)
        if before is not None:
            # Changed settings wait for the lead, too.
            assert keys.active.key_id == before
            issued.append((await tokens.issue(session, clock.now()))[0])
            clock.advance(timedelta(hours=1))
            await keys.maintain(CALL)
        assert keys.active.algorithm == algorithm
        before = keys.active.key_id
        issued.append((await tokens.issue(session, clock.now()))[0])
    assert len(issued) == 7
    found = [tokens.verify(token) for token in issued]
    assert all(isinstance(claims, Claims) for claims in found)
    public = {key["alg"] for key in json.loads(keys.jwks())["keys"]}
    assert public == {"ES256", "EdDSA", "RS256"}
    _verify_independently(issued, keys.jwks())
    assert len(await in_state(keys, KeyState.ACTIVE)) == 1


def _verify_independently(tokens: list[str], jwks: str) -> None:
    """Verify with another library all tokens but those that a symmetric key signed."""
    published_keys = KeySet.import_key_set(json.loads(jwks))
    for token in tokens:
        if jwt.get_unverified_header(token)["alg"] != "HS256":
            joserfc.jwt.decode(token, published_keys, algorithms=["ES256", "EdDSA", "RS256"])


@pytest.mark.slow
async def test_replicas_with_different_algorithms_do_not_alternate(
    database: Database, clock: FakeClock
) -> None:
    old = await load_keys(database, clock, algorithm="ES256")
    new = await load_keys(database, clock, algorithm="EdDSA")
    for _ in range(2 * 60):
        clock.advance(timedelta(minutes=1))
        await old.maintain(CALL)
        await new.maintain(CALL)
    assert new.active.algorithm == "ES256"
    assert len(await audited(database, AuditType.KEY_ROTATE)) == 1


async def test_wrong_algorithm_is_replaced_after_lead_time(
    database: Database, clock: FakeClock
) -> None:
    await load_keys(database, clock, algorithm="ES256")
    new = await load_keys(database, clock, algorithm="EdDSA")
    assert new.active.algorithm == "ES256"
    (prepared,) = await in_state(new, KeyState.PREPARED)
    assert prepared in published(new)
    (plan,) = [info for info in await new.list() if info.key_id == prepared]
    assert (plan.algorithm, plan.activate_time) == ("EdDSA", clock.now() + timedelta(hours=1))
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
        rows = await store.list_all(conn)
    (row,) = [row for row in rows if row.info.state is KeyState.ACTIVE]
    secret = keys.active.secret_bytes()
    assert secret not in row.sealed_key
    place = {"table": "signing_keys", "column": "sealed_key", "row": row.info.key_id}
    assert keyring().open(row.sealed_key, **place) == secret


async def test_secrets_are_hidden_in_repr(database: Database, clock: FakeClock) -> None:
    keys = await load_keys(database, clock, algorithm="HS256")
    async with database.connection() as conn:
        rows = await store.list_all(conn)
    (row,) = [row for row in rows if row.info.state is KeyState.ACTIVE]
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
        await conn.execute("DELETE FROM signing_keys WHERE state = 'prepared'")
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
    await first.rotate(CALL, now=True)
    async with database.connection() as conn:
        await conn.execute(f"{tampering} WHERE state = 'retired'")
    second = await load_keys(database, clock)
    trusted = {info.key_id for info in await second.list() if second.find(info.key_id)}
    assert trusted == set(published(second))
    sound = {info.key_id for info in await second.list() if info.state is not KeyState.RETIRED}
    assert trusted == sound


async def test_unreadable_active_key_can_be_rotated_away(
    database: Database, clock: FakeClock
) -> None:
    await load_keys(database, clock)
    keys = SigningKeys(
        database=database, keyring=keyring("other"), settings=token_settings(), clock=clock
    )
    assert (await keys.rotate(CALL, now=True)).key_id == keys.active.key_id
    assert keys.find(keys.active.key_id) is not None


async def test_unreadable_key_is_logged_once(database: Database, clock: FakeClock) -> None:
    await load_keys(database, clock)
    keys = SigningKeys(
        database=database, keyring=keyring("other"), settings=token_settings(), clock=clock
    )
    with capture_logs() as logs:
        for _ in range(3):
            await keys.refresh()
    assert [line["event"] for line in logs] == ["signing_key_unreadable"] * 2
    assert len({line["key_id"] for line in logs}) == 2


async def test_key_is_opened_once(database: Database, clock: FakeClock) -> None:
    keys = await load_keys(database, clock)
    opened = keys.active
    await keys.refresh()
    assert keys.active is opened
