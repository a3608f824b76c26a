"""`authsvc doctor` finds keys that are missing, weak, or not rotated."""

import base64
import os
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio

from authsvc.cli.doctor.findings import Level
from authsvc.config import KeySettings, Settings
from authsvc.core.lib.clock import SystemClock
from authsvc.core.lib.sealing import Keyring
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.store.postgres.database import Connection, Database
from tests.support.databases import settings_for
from tests.support.doctor import examine, levels, only
from tests.support.probe import with_changes
from tests.support.stored import add_user


def key(name: str, content: bytes | None = None) -> KeySettings:
    value = base64.b64encode(content or os.urandom(32)).decode()
    return KeySettings.model_validate({"id": name, "key": value})


@pytest.fixture
def own(settings: Settings, database_dsn: str) -> Settings:
    """Settings with good keys, on this test's own database."""
    made = with_changes(settings, "secrets", keyring=(key("k1"),), peppers=(key("p1"),))
    return made.model_copy(update={"database": settings_for(database_dsn)})


@pytest_asyncio.fixture
async def signing(own: Settings, database: Database) -> AsyncIterator[Connection]:
    """A connection to a database with signing keys, as after the first start."""
    keys = SigningKeys(
        database=database,
        keyring=Keyring(own.secrets.keyring),
        settings=own.tokens,
        clock=SystemClock(),
    )
    await keys.load()
    async with database.connection() as connection:
        yield connection


async def test_key_that_is_not_random_is_an_error(own: Settings) -> None:
    assert await levels("secrets.strength", own) == [Level.OK]
    weak = with_changes(own, "secrets", keyring=(key("k1", b"change-me" * 3 + b"12345"),))
    text = await only(Level.ERROR, "secrets.strength", weak)
    assert text == "secrets.keyring: k1 does not look random"


async def test_key_that_serves_twice_is_named(own: Settings) -> None:
    same = os.urandom(32)
    twice = with_changes(own, "secrets", keyring=(key("k", same),), peppers=(key("p", same),))
    text = await only(Level.WARNING, "secrets.strength", twice)
    assert text == "secrets.peppers: p is the same key as an earlier one"


@pytest.mark.parametrize("policy", ["refuse", "warn"])
async def test_missing_pepper_is_an_error(own: Settings, database: Database, policy: str) -> None:
    assert await levels("secrets.usable", own) == [Level.OK]
    async with database.connection() as connection:
        user_id = await add_user(connection, phc="x")
        await connection.execute("UPDATE users SET pepper_id = 'lost' WHERE user_id = $1", user_id)
    lenient = with_changes(own, "encryption", missing_keys=policy)
    text = await only(Level.ERROR, "secrets.usable", lenient)
    assert text.startswith('secrets.peppers has no pepper "lost"')


async def test_missing_key_of_the_keyring_is_an_error(own: Settings, signing: Connection) -> None:
    assert await levels("secrets.usable", own) == [Level.OK]
    other = with_changes(own, "secrets", keyring=(key("k2"),))
    text = await only(Level.ERROR, "secrets.usable", other)
    assert text.startswith('secrets.keyring has no key "k1"')
    text = await only(Level.ERROR, "secrets.signing", other)
    assert "can't be opened with secrets.keyring" in text


async def test_signing_key_of_another_keyring_is_an_error(
    own: Settings, signing: Connection
) -> None:
    """The key has the right name and is another one."""
    other = with_changes(own, "secrets", keyring=(key("k1"),))
    assert await levels("secrets.signing", other) == [Level.ERROR]


async def test_database_without_keys_is_named(own: Settings) -> None:
    text = await only(Level.WARNING, "secrets.signing", own)
    assert text == "there is no signing key yet"


async def test_key_that_nothing_rotates_is_an_error(own: Settings, signing: Connection) -> None:
    assert "signs since " in await only(Level.OK, "secrets.signing", own)
    await signing.execute("UPDATE signing_keys SET activate_time = now() - interval '37 days'")
    text = await only(Level.ERROR, "secrets.signing", own)
    assert "is 37d old, though tokens.key_rotation_interval is 30d" in text


async def test_database_without_an_active_key_is_an_error(
    own: Settings, signing: Connection
) -> None:
    await signing.execute(
        "UPDATE signing_keys SET state = 'revoked', revoke_time = now() WHERE state = 'active'"
    )
    assert "no signing key is active" in await only(Level.ERROR, "secrets.signing", own)


async def test_algorithm_that_is_not_in_force_yet_is_named(
    own: Settings, signing: Connection
) -> None:
    changed = with_changes(own, "tokens", algorithm="RS256", access_lifetime=timedelta(hours=1))
    found = await examine("secrets.signing", changed)
    assert [each.level for each in found] == [Level.WARNING]
    assert "signs with ES256, tokens.algorithm is RS256" in found[0].text
