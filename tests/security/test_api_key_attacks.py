"""API keys under attack: guessed, altered, flooded, or used by somebody else."""

import re
import string
from collections import Counter

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.api_keys.key_text import display_prefix, is_api_key, new_api_key
from authsvc.errors import NotFound
from authsvc.models.tokens import InactiveReason
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock
from tests.support.keys import replica
from tests.support.sessions import CALL, HeldDatabase, World
from tests.support.tokens import load_keys

# The pattern that docs/signing-in.md gives for secret scanners.
SCANNER = re.compile(r"\bauthsvc_[0-9A-Za-z]{49}\b")
ALPHABET = string.digits + string.ascii_letters


@pytest_asyncio.fixture
async def world(database: Database, clock: FakeClock) -> World:
    """A fresh database on which replicas are started."""
    return World(database, clock, await load_keys(database, clock))


def test_secret_scanners_detect_keys() -> None:
    for text in ("export KEY={}\n", '{{"key": "{}"}}', "https://x.test/?key={}&a=b", "{}", "<{}>"):
        key = new_api_key("authsvc")
        assert SCANNER.findall(text.format(key)) == [key]


def test_keys_are_long_and_unique() -> None:
    keys = [new_api_key("authsvc") for _ in range(2_000)]
    assert len(set(keys)) == 2_000
    assert all(is_api_key(key) for key in keys)
    # 43 characters out of 62 are 256 bits if all are equally likely, so none may stand out.
    counts = Counter("".join(key.removeprefix("authsvc_")[:43] for key in keys))
    assert set(counts) == set(ALPHABET)
    assert max(counts.values()) < 1.25 * min(counts.values())


def test_display_prefix_does_not_reveal_key() -> None:
    key = new_api_key("authsvc")
    assert display_prefix(key) == key[:14]


def test_one_changed_character_is_detected() -> None:
    key = new_api_key("authsvc")
    for at, character in enumerate(key):
        for other in (*ALPHABET, "_", "-", " ", "\0", "é"):
            if other != character:
                assert not is_api_key(key[:at] + other + key[at + 1 :])


def test_other_spellings_are_rejected() -> None:
    key = new_api_key("authsvc")
    for text in (
        *("", "authsvc_", key[:-1], key[1:], key + "0", key + "\n", " " + key, key + "=", key * 2),
        *(key.upper(), key.swapcase(), key.replace("_", "-"), "Bearer " + key, key + "\0"),
        *("x" + key, "authsvc" + key, key.replace("authsvc", "acme"), key.encode().hex()),
        "authsvc_" + "0" * 49,
        "authsvc_" + "\u0660" * 49,
        "authsvc_" + "x" * 60_000,
    ):
        assert not is_api_key(text)


@given(st.text(max_size=80))
def test_arbitrary_text_is_no_key(text: str) -> None:
    assert not is_api_key(text)


@given(st.text(alphabet=ALPHABET, min_size=49, max_size=49))
def test_well_formed_text_without_checksum_is_no_key(text: str) -> None:
    assert not is_api_key(f"authsvc_{text}")


async def test_garbage_costs_no_query(world: World) -> None:
    keys = replica(world)
    good = (await keys.create(await world.add_user())).text
    await world.database.close()
    changed = ("B" if good[20] == "A" else "A").join((good[:20], good[21:]))
    for text in ("x", changed, good + "x", "authsvc_" + "0" * 49, "\ud800", "x" * 1_000_000):
        assert await keys.reason(text) is InactiveReason.MALFORMED


async def test_key_with_former_prefix_stays_valid(world: World) -> None:
    before, after = replica(world, prefix="acme"), replica(world, prefix="corp")
    user_id = await world.add_user()
    old = await before.create(user_id)
    assert await after.reason(old.text) is None
    assert (await after.create(user_id)).text.startswith("corp_")


async def test_unknown_well_formed_key_is_not_cached(world: World) -> None:
    keys = replica(world)
    for _ in range(20):
        assert await keys.reason(new_api_key("authsvc")) is InactiveReason.KEY_UNKNOWN
    assert len(keys.validation._cache) == 0
    assert keys.validation._last_use._waiting == {}


async def test_table_content_reveals_no_key(world: World) -> None:
    keys = replica(world)
    await keys.create(await world.add_user())
    (row,) = await world.fetch("SELECT * FROM api_keys")
    texts = {column: str(value) for column, value in row.items()}
    assert not any(SCANNER.search(value) for value in texts.values())
    for value in (row["key_hash"].hex(), row["prefix"], str(row["key_id"])):
        assert await keys.reason(value) is InactiveReason.MALFORMED


async def test_user_can_manage_only_own_keys(world: World) -> None:
    keys, ada, eve = replica(world), await world.add_user(), await world.add_user()
    target = await keys.create(ada)
    with pytest.raises(NotFound):
        await keys.keys.revoke(CALL, eve, target.key.key_id)
    assert (await keys.keys.list(eve, 50, "")).keys == []
    assert (await keys.judge(target.text)).key == target.key


async def test_key_of_disabled_user_is_inactive(world: World) -> None:
    keys, user_id = replica(world, cache_size=0), await world.add_user()
    created = await keys.create(user_id)
    await world.disable(user_id)
    assert await keys.reason(created.text) is InactiveReason.USER_DISABLED
    await world.execute("DELETE FROM users")
    assert await keys.reason(created.text) is InactiveReason.KEY_UNKNOWN
    assert await world.fetch("SELECT FROM api_keys") == []


async def test_secrets_are_hidden_in_repr(world: World) -> None:
    held = HeldDatabase(world.database)
    held.go_on.set()
    keys = replica(world, database=held)
    created = await keys.create(await world.add_user())
    result = await keys.judge(created.text)
    secret = created.text.removeprefix(created.key.prefix)
    loaded = next(iter(keys.validation._cache._by_token.values()))
    assert secret not in repr((created, result, loaded))
    assert loaded.token_hash.hex() not in repr(loaded)
    assert repr(loaded.token_hash) not in repr(loaded)
