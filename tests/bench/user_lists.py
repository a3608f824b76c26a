"""Measures lists of users over a million of them: page 1 beside page 10,000, and combinations.

Run by hand: `python -m tests.bench.user_lists [users]`. For each filter alone, both pages have to
cost the same; a combination, however unlucky, has to end within two seconds.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from authsvc.config import BruteForceSettings
from authsvc.core.accounts.listing import AccountListing
from authsvc.core.attempts.brute_force import BruteForce
from authsvc.core.lib.slices import Slices
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.models.ids import UserId
from authsvc.models.users import TimeRange, UserFilter, UserStatus
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.migrator import migrate
from authsvc.store.user_listing import ListPosition
from tests.support.accounts import KEYRING
from tests.support.clock import FakeClock
from tests.support.databases import settings_for

_PAGE = 50
_PAGES = 10_000
_RUNS = 15
_START = datetime(2024, 1, 1, tzinfo=UTC)
# Two thirds of the users have each of what is filtered, except the rare: one in ten thousand, the
# last ones of all, which is the worst for a scan that looks for them from the beginning.
_FILL = """
INSERT INTO users (user_id, email, email_canonical, roles, status, origin, create_time,
    update_time, email_verify_time, last_login_time)
SELECT lpad(to_hex(n), 32, '0')::uuid, m.address, m.address,
    CASE WHEN n > $2::bigint - $2::bigint / 10000 THEN '{user,rare}' ELSE '{user}' END::text[],
    CASE WHEN n > $2::bigint - $2::bigint / 10000 THEN 'disabled' ELSE 'active' END, 'import',
    $3::timestamptz + n * interval '1 second', $3::timestamptz,
    CASE WHEN n % 3 > 0 THEN $3::timestamptz END,
    CASE WHEN n % 3 > 0 THEN $3::timestamptz + (n * 7919 % $2::bigint) * interval '1 second' END
FROM generate_series($1::bigint, $1 + 49999) AS n,
    LATERAL (SELECT 'user' || lpad(n::text, 8, '0') || '@example.test' AS address) AS m
"""
_LINK = """
INSERT INTO identities (provider, subject, user_id, create_time, last_use_time)
SELECT CASE WHEN n > $2::bigint - $2::bigint / 10000 THEN 'rare' ELSE 'github' END, n::text,
    lpad(to_hex(n), 32, '0')::uuid, $3::timestamptz, $3::timestamptz
FROM generate_series($1::bigint, $1 + 49999) AS n WHERE n % 3 > 0
"""
_END = _START + timedelta(days=10_000)
ALONE: Mapping[str, tuple[UserFilter, str, str]] = {
    # The filter; its rows and the value that its index orders by, to find the start of a page.
    "none": (UserFilter(), "users", "NULL"),
    "address": (UserFilter(email_prefix="user"), "users", "email_canonical"),
    "role": (UserFilter(role="user"), "user_roles WHERE role = 'user'", "NULL"),
    "status": (
        UserFilter(status=UserStatus.ACTIVE),
        "users WHERE status = 'active'",
        "NULL",
    ),
    "verified": (
        UserFilter(verified=True),
        "users WHERE email_verify_time IS NOT NULL",
        "NULL",
    ),
    "provider": (UserFilter(provider="github"), "identities WHERE provider = 'github'", "NULL"),
    "created": (UserFilter(create_time=TimeRange(_START, _END)), "users", "create_time"),
    "last login": (
        UserFilter(last_login_time=TimeRange(_START, _END)),
        "users WHERE last_login_time IS NOT NULL",
        "last_login_time",
    ),
    "rare role": (UserFilter(role="rare"), "", ""),
    "rare status": (UserFilter(status=UserStatus.DISABLED), "", ""),
    "rare provider": (UserFilter(provider="rare"), "", ""),
}
TOGETHER: Mapping[str, UserFilter] = {
    "verified and disabled": UserFilter(status=UserStatus.DISABLED, verified=True),
    "created and rare role": UserFilter(role="rare", create_time=TimeRange(_START, _END)),
    "created and never": UserFilter(create_time=TimeRange(_START), status=UserStatus.DISABLED),
    "role and never": UserFilter(role="user", status=UserStatus.DISABLED),
    "address and never": UserFilter("user", "nobody"),
    "last login and never": UserFilter(
        last_login_time=TimeRange(_START), status=UserStatus.DISABLED, verified=False
    ),
}


async def fill(database: Database, users: int) -> None:
    """Store the users."""
    for first in range(1, users + 1, 50_000):
        async with database.transaction() as connection:
            await connection.execute(_FILL, first, users, _START)
            await connection.execute(_LINK, first, users, _START)
    async with database.connection() as connection:
        await connection.execute("VACUUM ANALYZE")


async def measure(database: Database, users: int) -> None:
    """Print the median milliseconds of each page."""
    listing = AccountListing(
        database=database,
        brute_force=BruteForce(database, BruteForceSettings(), KEYRING),
        keyring=KEYRING,
        slices=Slices(),
        clock=FakeClock(),
    )

    async def page(wanted: UserFilter, token: str) -> str:
        times, found = [], 0
        for _ in range(_RUNS):
            start = time.perf_counter()
            found = len((await listing.list(wanted, _PAGE, token)).users)
            times.append(1_000 * (time.perf_counter() - start))
        return f"{statistics.median(times):6.1f} ms ({found} users)"

    print(f"{users} users, pages of {_PAGE}, median of {_RUNS}")
    before = min(_PAGE * (_PAGES - 1), users // 2)
    for name, (wanted, source, key) in ALONE.items():
        first = await page(wanted, "")
        if not source:
            print(f"{name:22} page 1 {first}")
            continue
        async with database.connection() as connection:
            order = "user_id" if key == "NULL" else f"{key}, user_id"
            row = await connection.fetchrow(
                f"SELECT {key} AS key, user_id FROM {source} ORDER BY {order} OFFSET $1 LIMIT 1",
                before,
            )
        assert row is not None
        place = ListPosition(row["key"], UserId(row["user_id"]))
        later = await page(wanted, listing._token(wanted, place))
        print(f"{name:22} page 1 {first}   page {before // _PAGE + 1} {later}")
    for name, wanted in TOGETHER.items():
        token, slowest, calls, found = "", 0.0, 0, 0
        while True:
            start = time.perf_counter()
            result = await listing.list(wanted, _PAGE, token)
            slowest = max(slowest, time.perf_counter() - start)
            token, calls, found = result.next_page_token, calls + 1, found + len(result.users)
            if not token:
                break
        print(f"{name:22} slowest call {slowest:.2f} s, {calls} calls, {found} users")


async def run(dsn: str, users: int) -> None:
    """Fill the database and measure."""
    await migrate(dsn)
    database = await Database.open(settings_for(dsn, command_timeout="600s"))
    try:
        await fill(database, users)
        await measure(database, users)
    finally:
        await database.close()


def main() -> None:
    """Measure on a database of its own."""
    users = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        postgres = EmbeddedPostgres(Path(folder))
        postgres.start()
        try:
            asyncio.run(run(postgres.dsn(), users))
        finally:
            postgres.stop()


if __name__ == "__main__":
    main()
