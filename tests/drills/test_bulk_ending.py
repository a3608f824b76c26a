"""The ending of 100,000 sessions at once while their users log in: how long it takes, who waits.

`DRILL_SESSIONS` changes how many there are. It is run as the service does it, a thousand sessions a
statement, and with one statement for all, to compare.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio
import structlog

from authsvc import log as logs
from authsvc.app.build import Parts, open_parts
from authsvc.config import LogSettings, Settings
from authsvc.errors import StoreUnavailable
from authsvc.models.calls import Call, ClientContext
from authsvc.models.ids import UserId
from authsvc.models.sessions import SessionSelection

SESSIONS = int(os.environ.get("DRILL_SESSIONS", "100000"))
PER_USER = 5
USERS = SESSIONS // PER_USER
LOGINS_AT_ONCE = 4
CALL = Call("drill", "spiffe://authsvc.test/admin")
_FILL_USERS = """
INSERT INTO users (user_id, email, email_canonical, create_time, update_time)
SELECT gen_random_uuid(), n || '@example.test', n || '@example.test', now(), now()
FROM generate_series(1, $1::integer) AS n
"""
# Ids whose first 48 bits are the time of creation, as the service makes them.
_FILL_SESSIONS = """
INSERT INTO sessions (session_id, user_id, token_hash, csrf_hash, create_time, last_use_time,
    authentication_time, refresh_time, idle_expire_time, absolute_expire_time, ip, user_agent,
    authentication_methods)
SELECT (lpad(to_hex((extract(epoch FROM created) * 1000)::bigint), 12, '0')
        || '7' || substr(md5(random()::text), 1, 3) || '8' || substr(md5(random()::text), 1, 15)
    )::uuid, user_id, sha256(gen_random_uuid()::text::bytea), 'x', created, created, created,
    created, now() + interval '7 days', now() + interval '30 days', '192.0.2.1', 'Browser/1',
    '{pwd}'
FROM users, generate_series(1, $1::integer) AS n,
    LATERAL (SELECT now() - random() * interval '10 days' + n * interval '0' AS created) AS times
"""


@contextmanager
def unread_log() -> Iterator[None]:
    """Log as the service does, to where it costs no more than its writing."""
    with Path(os.devnull).open("w") as stream:
        logs.configure(LogSettings(), stream)
        yield
        structlog.reset_defaults()


@pytest_asyncio.fixture
async def parts(live_settings: Settings) -> AsyncIterator[Parts]:
    with unread_log():
        async with open_parts(live_settings) as parts:
            await parts.use.signing_keys.load()
            async with parts.database.connection() as connection:
                await connection.execute(_FILL_USERS, USERS)
                await connection.execute(_FILL_SESSIONS, PER_USER)
                await connection.execute("ANALYZE")
            yield parts


class Logins:
    """Logins of random users with the most sessions that they may have, so each ends one."""

    def __init__(self, parts: Parts, users: list[UserId]) -> None:
        self._parts = parts
        self._users = users
        self.seconds: list[float] = []
        self.failed = 0

    async def run(self) -> None:
        while True:
            started = time.perf_counter()
            try:
                await self._parts.use.session_opening.create(
                    CALL, random.choice(self._users), ClientContext(), ("pwd",)
                )
            except StoreUnavailable:
                self.failed += 1
            self.seconds.append(time.perf_counter() - started)


@pytest.mark.drill
@pytest.mark.parametrize("per_statement", [1_000, 10 * SESSIONS])
async def test_many_sessions_end_while_users_log_in(
    per_statement: int, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_pages = per_statement < SESSIONS
    if not in_pages:
        monkeypatch.setattr("authsvc.core.sessions.bulk_ending._END", per_statement)
        monkeypatch.setattr("authsvc.core.sessions.bulk_ending._FIND", per_statement)
    ending, everything = parts.use.bulk_session_ending, SessionSelection()
    async with parts.database.connection() as connection:
        users = [row["user_id"] for row in await connection.fetch("SELECT user_id FROM users")]
    started = time.perf_counter()
    assert await ending.count(everything) == SESSIONS
    counted = time.perf_counter() - started
    logins = Logins(parts, users)
    tasks = [asyncio.create_task(logins.run()) for _ in range(LOGINS_AT_ONCE)]
    started = time.perf_counter()
    try:
        ended = (await ending.end(CALL, everything)).count
        took = time.perf_counter() - started
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    waits = sorted(logins.seconds)
    print(
        f"\n{ended} sessions, {per_statement} a statement: counted in {counted:.2f} s, ended in"
        f" {took:.2f} s ({ended / took:.0f}/s); meanwhile {len(waits)} logins, {logins.failed}"
        f" failed, median {1e3 * waits[len(waits) // 2]:.1f} ms, slowest {1e3 * waits[-1]:.0f} ms"
    )
    if in_pages:
        assert logins.failed == 0
    async with parts.database.connection() as connection:
        left = await connection.fetchval("SELECT count(*) FROM sessions WHERE revoke_time IS NULL")
        log = await connection.fetchval("SELECT count(DISTINCT session_id) FROM revocations")
        marked = await connection.fetchval(
            "SELECT count(*) FROM sessions WHERE revoke_time IS NOT NULL"
        )
    assert left <= len(waits)
    assert log == marked >= SESSIONS
