"""Removing rows by age: only due rows, no more than requested, and concurrently."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import asyncpg
import pytest

from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.store import (
    challenges,
    oauth_states,
    one_time_codes,
    outbox,
    retention,
    session_keys,
)
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.postgres.migrator import migrate
from tests.support.databases import settings_for

_Remove: TypeAlias = Callable[[Connection, datetime, int], Awaitable[int]]

_NOW = datetime(2030, 6, 15, 12, tzinfo=UTC)

_USER = """
INSERT INTO users (user_id, email, email_canonical, create_time, update_time)
VALUES ('00000000-0000-7000-8000-000000000000', 'a@b.example', 'a@b.example', now(), now())
"""
# One row for each of the 10 days before $1, and one for $1 itself.
_FILL = {
    retention.delete_sessions: """
        INSERT INTO sessions (session_id, user_id, token_hash, csrf_hash, create_time,
            last_use_time, authentication_time, idle_expire_time, absolute_expire_time,
            authentication_methods, refresh_time)
        SELECT gen_random_uuid(), user_id, sha256(day::text::bytea), '', $1, $1, $1,
            $1::timestamptz - make_interval(days => day), 'infinity', '{}', $1
        FROM users, generate_series(0, 10) AS day
    """,
    retention.delete_revocations: """
        INSERT INTO revocations (key_id, revoke_time)
        SELECT day, $1::timestamptz - make_interval(days => day) FROM generate_series(0, 10) AS day
    """,
    retention.delete_devices: """
        INSERT INTO devices (user_id, device_hash, last_use_time)
        SELECT user_id, day::text::bytea, $1::timestamptz - make_interval(days => day)
        FROM users, generate_series(0, 10) AS day
    """,
    retention.delete_api_keys: """
        INSERT INTO api_keys (key_id, user_id, name, prefix, key_hash, scopes, create_time,
            expire_time, revoke_time)
        SELECT gen_random_uuid(), user_id, '', '', day::text::bytea, '{}', $1,
            CASE WHEN day % 2 = 0 THEN ended ELSE 'infinity' END,
            CASE WHEN day % 2 = 1 THEN ended END
        FROM users, generate_series(0, 10) AS day,
            LATERAL (SELECT $1::timestamptz - make_interval(days => day) AS ended) AS _
    """,
    one_time_codes.delete_expired: """
        INSERT INTO one_time_codes (code_id, purpose, email_canonical, user_id, code_hash,
            create_time, expire_time, use_time)
        SELECT gen_random_uuid(), 'login', day || '@b.example', user_id, '', $1,
            $1::timestamptz - make_interval(days => day), CASE WHEN day % 2 = 0 THEN $1 END
        FROM users, generate_series(0, 10) AS day
    """,
    oauth_states.delete_expired: """
        INSERT INTO oauth_states (state_hash, provider, redirect_uri, sealed_verifier,
            create_time, expire_time)
        SELECT day::text::bytea, '', '', '', $1, $1::timestamptz - make_interval(days => day)
        FROM generate_series(0, 10) AS day
    """,
    outbox.delete_ended: """
        INSERT INTO outbox (message_id, kind, user_id, sealed_content, state, create_time,
            next_time, expire_time, end_time)
        SELECT gen_random_uuid(), '', user_id, '',
            (ARRAY['sent', 'abandoned', 'decoy'])[1 + day % 3], $1, $1, $1,
            $1::timestamptz - make_interval(days => day)
        FROM users, generate_series(0, 10) AS day
    """,
    challenges.delete_expired: """
        INSERT INTO challenges (challenge_id, kind, user_id, create_time, expire_time)
        SELECT gen_random_uuid(), 'mfa', user_id, $1,
            $1::timestamptz - make_interval(days => day)
        FROM users, generate_series(0, 10) AS day
    """,
    session_keys.delete_expired: """
        WITH session AS (
            INSERT INTO sessions (session_id, user_id, token_hash, csrf_hash, create_time,
                last_use_time, authentication_time, idle_expire_time, absolute_expire_time,
                authentication_methods, refresh_time)
            SELECT gen_random_uuid(), user_id, '', '', $1, $1, $1, 'infinity', 'infinity', '{}', $1
            FROM users
            RETURNING session_id
        )
        INSERT INTO session_keys (session_key_id, session_id, purpose, kind, public_key,
            create_time, expire_time)
        SELECT gen_random_uuid(), session_id, day::text, 'jwk', '', $1,
            $1::timestamptz - make_interval(days => day)
        FROM session, generate_series(0, 10) AS day
    """,
    retention.delete_audit_events: """
        INSERT INTO audit_events (event_id, occur_time, type, caller, request_id)
        SELECT gen_random_uuid(), $1::timestamptz - make_interval(days => day), '', '', ''
        FROM generate_series(0, 10) AS day
    """,
}
_TABLES: dict[_Remove, str] = {
    retention.delete_sessions: "sessions",
    retention.delete_revocations: "revocations",
    retention.delete_devices: "devices",
    retention.delete_api_keys: "api_keys",
    one_time_codes.delete_expired: "one_time_codes",
    oauth_states.delete_expired: "oauth_states",
    outbox.delete_ended: "outbox",
    challenges.delete_expired: "challenges",
    session_keys.delete_expired: "session_keys",
    retention.delete_audit_events: "audit_events",
}


@pytest.fixture(params=_FILL, ids=lambda remove: _TABLES[remove])
async def remove(request: pytest.FixtureRequest, database: Database) -> _Remove:
    chosen: _Remove = request.param
    async with database.transaction() as connection:
        await connection.execute(_USER)
        assert await connection.execute(_FILL[request.param], _NOW) == "INSERT 0 11"
    return chosen


async def _left(database: Database, remove: _Remove) -> int:
    async with database.connection() as connection:
        count: int = await connection.fetchval(f"SELECT count(*) FROM {_TABLES[remove]}")
    return count


async def test_removes_only_older_rows(database: Database, remove: _Remove) -> None:
    async with database.connection() as connection:
        assert await remove(connection, _NOW - timedelta(days=4), 1_000) == 6
        assert await _left(database, remove) == 5
        assert await remove(connection, _NOW - timedelta(days=4), 1_000) == 0
        assert await remove(connection, _NOW, 1_000) == 4
    assert await _left(database, remove) == 1


async def test_removes_no_more_than_requested(database: Database, remove: _Remove) -> None:
    async with database.connection() as connection:
        counts = [await remove(connection, _NOW, 4) for _ in range(4)]
    assert counts == [4, 4, 2, 0]


async def test_concurrent_removals_neither_wait_nor_overlap(
    database: Database, remove: _Remove
) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(30):
        first = await stack.enter_async_context(database.transaction())
        second = await stack.enter_async_context(database.transaction())
        counts = [await remove(first, _NOW, 4), await remove(second, _NOW, 10)]
    assert counts == [4, 6]
    assert await _left(database, remove) == 1


async def test_whole_months_of_audit_events_are_dropped(database: Database) -> None:
    async with database.transaction() as connection:
        first = await connection.fetchval("SELECT date_trunc('month', now(), 'UTC')")
        # The previous month, if it ended after the migrations ran.
        await retention.drop_audit_months(connection, first, 1_000)
        for days in (1, 33, 65):
            await connection.execute(
                "INSERT INTO audit_events (event_id, occur_time, type, caller, request_id) "
                "VALUES (gen_random_uuid(), $1, '', '', '')",
                first + timedelta(days=days),
            )
    before = first + timedelta(days=50)
    async with database.transaction() as connection:
        assert await retention.drop_audit_months(connection, before, 1_000) == 1
        assert await retention.drop_audit_months(connection, before, 1_000) == 0
    assert await _left(database, retention.delete_audit_events) == 2


@pytest.mark.slow
async def test_no_month_is_dropped_during_read(database: Database) -> None:
    far = datetime(2100, 1, 1, tzinfo=UTC)
    async with database.transaction() as reader:
        await reader.execute("SELECT FROM audit_events")
        async with database.transaction() as connection:
            assert await retention.drop_audit_months(connection, far, 1) == 0
    async with database.transaction() as connection:
        assert await retention.drop_audit_months(connection, far, 1) == 1


@pytest.mark.slow
async def test_role_not_owning_partitions_deletes_rows_instead(
    own_server: EmbeddedPostgres,
) -> None:
    await migrate(own_server.dsn(user="postgres"))
    admin = await asyncpg.connect(own_server.dsn(user="postgres"))
    await admin.execute(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO authsvc"
    )
    await admin.execute(_FILL[retention.delete_audit_events], _NOW)
    await admin.close()
    serving = await Database.open(settings_for(own_server.dsn()))
    async with serving.transaction() as connection:
        assert await retention.drop_audit_months(connection, _NOW, 1_000) == 0
        assert await retention.delete_audit_events(connection, _NOW, 1_000) == 10
    await serving.close()


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
async def test_months_follow_utc_in_every_time_zone(database: Database, zone: str) -> None:
    async with database.transaction() as connection:
        await connection.execute(f"SET LOCAL timezone = '{zone}'")
        for time in (datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 31, 23, 59, tzinfo=UTC)):
            partition = await connection.fetchval(
                "INSERT INTO audit_events (event_id, occur_time, type, caller, request_id) "
                "VALUES (gen_random_uuid(), $1, '', '', '') RETURNING tableoid::regclass::text",
                time,
            )
            assert partition == "audit_events_2030_01"
