"""Users and devices: one account per address, and no failure lost or counted twice."""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from authsvc.core.lib.ids import uuid7
from authsvc.models.ids import UserId
from authsvc.models.users import User, UserOrigin, UserStatus
from authsvc.store import devices, users
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.users import Credential
from tests.support.stored import updates

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = datetime(2030, 1, 2, tzinfo=UTC)
NOBODY = UserId(UUID(int=0))
DEVICE = b"d" * 32
LIMIT = 5


def _user(email: str = "Ada@Example.Test") -> User:
    return User(
        UserId(uuid7(NOW)), email, "Ada Lovelace", ("user", "editor"), UserStatus.ACTIVE, NOW
    )


async def _insert(database: Database, email: str = "Ada@Example.Test") -> User:
    user = _user(email)
    async with database.connection() as conn:
        assert await users.insert(
            conn,
            user,
            email_canonical=email.lower(),
            origin=UserOrigin.REGISTER,
            phc="hash",
            pepper_id="p1",
        )
    return user


async def _claim(
    conn: Connection, email: str = "ada@example.test", *, known_device: bool = False
) -> Credential | None:
    return await users.claim_attempt(conn, email, LIMIT, known_device=known_device)


async def _failures(conn: Connection) -> tuple[int, int]:
    """Return how many logins failed in a row: from unknown devices, and from known ones."""
    row = await conn.fetchrow("SELECT failed_logins, failed_device_logins FROM users")
    assert row is not None
    return row[0], row[1]


async def test_stored_account_is_read_back_unchanged(database: Database) -> None:
    user = await _insert(database)
    async with database.connection() as conn:
        assert await users.get(conn, user.user_id) == user
        assert await users.get(conn, NOBODY) is None


@pytest.mark.parametrize(
    ("to_delete", "left"), [(False, {"FOR KEY SHARE"}), (True, set())], ids=["change", "delete"]
)
async def test_lock_user_blocks_conflicting_row_locks(
    to_delete: bool, left: set[str], database: Database
) -> None:
    user = await _insert(database)
    strengths = ("FOR KEY SHARE", "FOR SHARE", "FOR NO KEY UPDATE", "FOR UPDATE")
    async with database.transaction() as conn, database.connection() as other:
        locked = await users.lock_user(conn, user.user_id, to_delete=to_delete)
        assert locked is not None
        assert asdict(locked) == asdict(user)
        free = {
            strength
            for strength in strengths
            if await other.fetch(f"SELECT FROM users {strength} SKIP LOCKED")
        }
        assert free == left


async def test_lock_user_returns_disabled_users_and_none_if_unknown(database: Database) -> None:
    user = await _insert(database)
    async with database.transaction() as conn:
        await users.set_status(conn, user.user_id, UserStatus.DISABLED, NOW)
        locked = await users.lock_user(conn, user.user_id)
        assert locked is not None
        assert not locked.active
        assert await users.lock_user(conn, NOBODY) is None


async def test_address_belongs_to_one_account(database: Database) -> None:
    first = await _insert(database)
    async with database.connection() as conn:
        second = _user("ADA@example.test")
        inserted = await users.insert(
            conn,
            second,
            email_canonical="ada@example.test",
            origin=UserOrigin.REGISTER,
            phc="other",
            pepper_id="p1",
        )
        assert not inserted
        assert await users.get(conn, second.user_id) is None
        credential = await users.get_credential(conn, first.user_id)
    assert credential == Credential(first.user_id, "hash", "p1")


async def test_repr_hides_stored_password(database: Database) -> None:
    assert "secret" not in repr(Credential(NOBODY, "secret", "p1"))


@pytest.mark.parametrize("by", ["id", "address"])
async def test_status_is_set_by_id_or_address(database: Database, by: str) -> None:
    user = await _insert(database)
    other = await _insert(database, "bob@example.test")
    key = user.user_id if by == "id" else "ada@example.test"
    async with database.connection() as conn:
        assert await users.set_status(conn, key, UserStatus.DISABLED, LATER) == user.user_id
        changed = await users.get(conn, user.user_id)
        assert changed is not None
        assert changed.status is UserStatus.DISABLED
        assert await users.get(conn, other.user_id) == other
        update_time = "SELECT update_time FROM users WHERE user_id = $1"
        assert await conn.fetchval(update_time, user.user_id) == LATER


@pytest.mark.parametrize("key", [NOBODY, "nobody@example.test"])
async def test_setting_status_of_unknown_user_returns_none(
    database: Database, key: UserId | str
) -> None:
    await _insert(database)
    async with database.connection() as conn:
        assert await users.set_status(conn, key, UserStatus.DISABLED, LATER) is None


async def test_setting_status_resets_failures(database: Database) -> None:
    user = await _insert(database)
    async with database.connection() as conn:
        for known in (True, False):
            await _claim(conn, known_device=known)
        await users.set_status(conn, user.user_id, UserStatus.ACTIVE, LATER)
        assert await _failures(conn) == (0, 0)


@pytest.mark.parametrize("known", [True, False])
async def test_attempts_are_claimed_up_to_limit(database: Database, known: bool) -> None:
    user = await _insert(database)
    expected = Credential(user.user_id, "hash", "p1")
    async with database.connection() as conn:
        claims = [await _claim(conn, known_device=known) for _ in range(7)]
        assert claims == [expected] * LIMIT + [None] * 2
        assert await _failures(conn) == ((0, LIMIT) if known else (LIMIT, 0))
        # The other kind is counted separately.
        assert await _claim(conn, known_device=not known) == expected


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
async def test_concurrent_claims_stay_within_limit(database: Database, known: bool) -> None:
    await _insert(database)

    async def claim() -> Credential | None:
        async with database.connection() as conn:
            return await _claim(conn, known_device=known)

    claims = await asyncio.gather(*(claim() for _ in range(60)))
    assert sum(claim is not None for claim in claims) == LIMIT


@pytest.mark.parametrize("known", [True, False])
async def test_disabled_or_unknown_account_cannot_claim_attempt(
    database: Database, known: bool
) -> None:
    user = await _insert(database)
    async with database.connection() as conn:
        await users.set_status(conn, user.user_id, UserStatus.DISABLED, LATER)
        assert await _claim(conn, known_device=known) is None
        assert await _claim(conn, "nobody@example.test", known_device=known) is None
        assert await _failures(conn) == (0, 0)


@pytest.mark.parametrize("state", ["active", "unknown", "disabled", "locked"])
async def test_claim_writes_the_same_for_every_account(database: Database, state: str) -> None:
    await _insert(database)
    changes = {"disabled": "status = 'disabled'", "locked": "failed_logins = 100"}
    async with database.connection() as connection:
        if state in changes:
            await connection.execute(f"UPDATE users SET {changes[state]}")
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL synchronous_commit = on")
        before = await updates(connection)
        email = "nobody@example.test" if state == "unknown" else "ada@example.test"
        claimed = await _claim(connection, email, known_device=False)
        assert (claimed is not None) is (state == "active")
        assert await updates(connection) == before + 1
        assert await connection.fetchval("SHOW synchronous_commit") == "off"


@pytest.mark.parametrize("known", [True, False])
async def test_claim_can_be_released(database: Database, known: bool) -> None:
    user = await _insert(database)
    async with database.connection() as conn:
        await _claim(conn, known_device=True)
        await _claim(conn, known_device=False)
        await users.release_attempt(conn, None, known_device=known)
        assert await _failures(conn) == (1, 1)
        for _ in range(2):
            await users.release_attempt(conn, user.user_id, known_device=known)
            assert await _failures(conn) == ((1, 0) if known else (0, 1))


async def test_confirmed_login_resets_failures(database: Database) -> None:
    user = await _insert(database)
    async with database.connection() as conn:
        await _claim(conn, known_device=True)
        credential = await _claim(conn)
        assert credential is not None
        confirmed = await users.confirm_login(conn, credential, LATER)
        assert confirmed is not None
        assert asdict(confirmed) == asdict(user) | {"last_login_time": LATER}
        assert await _failures(conn) == (0, 0)


async def test_logins_set_last_login_time_and_other_proofs_do_not(database: Database) -> None:
    user = await _insert(database)
    async with database.connection() as conn:

        async def last_login() -> datetime | None:
            time: datetime | None = await conn.fetchval("SELECT last_login_time FROM users")
            return time

        assert await users.confirm(conn, user.user_id, None) is not None
        assert await last_login() is None
        credential = await _claim(conn)
        assert credential is not None
        assert await users.confirm_login(conn, credential, NOW) is not None
        assert await last_login() == NOW
        assert await users.confirm(conn, user.user_id, LATER) is not None
        assert await users.confirm(conn, user.user_id, None) is not None
        assert await last_login() == LATER
        assert await users.note_login(conn, user.user_id, NOW) is not None
        assert await last_login() == NOW
        await users.set_status(conn, user.user_id, UserStatus.DISABLED, LATER)
        assert await users.note_login(conn, user.user_id, LATER) is None
        assert await last_login() == NOW


async def test_first_of_two_factors_resets_nothing(database: Database) -> None:
    user = await _insert(database)
    async with database.connection() as conn:
        await conn.execute("UPDATE users SET has_second_factor = true")
        await _claim(conn, known_device=True)
        credential = await _claim(conn)
        assert credential is not None
        assert await users.confirm_login(conn, credential, LATER) is not None
        assert await users.confirm(conn, user.user_id, NOW) is not None
        assert await _failures(conn) == (1, 1)
        await users.reset_failures(conn, user.user_id)
        assert await _failures(conn) == (0, 0)


async def test_login_is_not_confirmed_after_password_change(database: Database) -> None:
    user = await _insert(database)
    async with database.connection() as conn:
        before = await _claim(conn)
        assert before is not None
        await users.replace_hash(conn, before, phc="other", pepper_id="p2")
        assert await users.confirm_login(conn, before, NOW) is None
        assert await _failures(conn) == (1, 0)
        now = await users.get_credential(conn, user.user_id)
    assert now == Credential(user.user_id, "other", "p2")


async def test_login_is_not_confirmed_after_account_is_disabled(database: Database) -> None:
    user = await _insert(database)
    async with database.connection() as conn:
        credential = await users.get_credential(conn, user.user_id)
        assert credential is not None
        await users.set_status(conn, user.user_id, UserStatus.DISABLED, LATER)
        assert await users.confirm_login(conn, credential, LATER) is None
        assert await users.get_credential(conn, user.user_id) is None


async def test_hash_is_replaced_only_if_unchanged(database: Database) -> None:
    user = await _insert(database)
    async with database.connection() as conn:
        old = await users.get_credential(conn, user.user_id)
        assert old is not None
        await users.replace_hash(conn, old, phc="first", pepper_id="p2")
        await users.replace_hash(conn, old, phc="second", pepper_id="p3")
        now = await users.get_credential(conn, user.user_id)
    assert now == Credential(user.user_id, "first", "p2")


async def test_device_is_known_only_to_account_that_used_it(database: Database) -> None:
    ada = await _insert(database)
    bob = await _insert(database, "bob@example.test")

    async with database.connection() as conn:

        async def knows(email: str, device: bytes | None) -> bool:
            subject = await users.find_login_subject(conn, email, device, LIMIT)
            assert subject is not None
            assert subject.status is UserStatus.ACTIVE
            assert subject.user_id == (ada if email.startswith("ada") else bob).user_id
            return subject.known_device

        await devices.remember(conn, ada.user_id, DEVICE, NOW)
        assert await knows("ada@example.test", DEVICE)
        assert not await knows("ada@example.test", b"other")
        assert not await knows("ada@example.test", None)
        assert not await knows("bob@example.test", DEVICE)
        assert await users.find_login_subject(conn, "nobody@example.test", DEVICE, LIMIT) is None


async def test_no_device_is_known_after_too_many_device_failures(
    database: Database,
) -> None:
    user = await _insert(database)
    async with database.connection() as conn:
        await devices.remember(conn, user.user_id, DEVICE, NOW)
        for known in (True, False):
            subject = await users.find_login_subject(conn, "ada@example.test", DEVICE, LIMIT)
            assert subject is not None
            assert subject.known_device is known
            for _ in range(LIMIT):
                await _claim(conn, known_device=True)


async def test_device_is_stored_with_last_use(database: Database) -> None:
    user = await _insert(database)
    async with database.connection() as conn:
        await devices.remember(conn, user.user_id, DEVICE, NOW)
        await devices.remember(conn, user.user_id, DEVICE, LATER)
        assert await conn.fetchval("SELECT last_use_time FROM devices") == LATER


async def test_only_most_recently_used_devices_are_kept(database: Database) -> None:
    user = await _insert(database)
    names = [bytes([number]) * 32 for number in range(30)]
    async with database.connection() as conn:
        for number, name in enumerate(names):
            await devices.remember(conn, user.user_id, name, NOW + timedelta(seconds=number))
        rows = await conn.fetch("SELECT device_hash FROM devices ORDER BY last_use_time")
    assert [row["device_hash"] for row in rows] == names[-20:]


async def test_failures_of_other_accounts_are_left_alone(database: Database) -> None:
    ada = await _insert(database)
    await _insert(database, "bob@example.test")
    async with database.connection() as conn:

        async def failures_of_bob() -> object:
            return await conn.fetchval(
                "SELECT (failed_logins, failed_device_logins, last_login_time) FROM users"
                " WHERE email_canonical = 'bob@example.test'"
            )

        for known in (True, False):
            await _claim(conn, "bob@example.test", known_device=known)
        assert await failures_of_bob() == (1, 1, None)
        credential = await _claim(conn)
        assert credential is not None
        await users.release_attempt(conn, ada.user_id, known_device=False)
        assert await users.confirm_login(conn, credential, NOW) is not None
        assert await users.confirm(conn, ada.user_id, NOW) is not None
        await users.reset_failures(conn, ada.user_id)
        await users.set_status(conn, ada.user_id, UserStatus.ACTIVE, NOW)
        assert await failures_of_bob() == (1, 1, None)


async def test_user_who_is_disabled_cannot_be_confirmed(database: Database) -> None:
    user = await _insert(database)
    async with database.connection() as conn:
        await users.set_status(conn, user.user_id, UserStatus.DISABLED, LATER)
        assert await users.confirm(conn, user.user_id, NOW) is None


async def test_device_is_known_until_the_last_allowed_failure(database: Database) -> None:
    user = await _insert(database)
    async with database.connection() as conn:
        await devices.remember(conn, user.user_id, DEVICE, NOW)
        known = []
        for _ in range(LIMIT + 1):
            subject = await users.find_login_subject(conn, "ada@example.test", DEVICE, LIMIT)
            assert subject is not None
            known.append(subject.known_device)
            await _claim(conn, known_device=True)
    assert known == [True] * LIMIT + [False]
