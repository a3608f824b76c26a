"""Owns the check of how soon a revocation is known: one is written, and read as a replica does."""

import asyncio
import time
from collections.abc import Sequence
from uuid import uuid4

from authsvc.cli.doctor.deployment import Deployment
from authsvc.cli.doctor.findings import Finding, Skip, error, ok, warning
from authsvc.core.lib.log_follower import LogFollower
from authsvc.models.ids import SessionId
from authsvc.models.revocations import LoggedRevocation
from authsvc.store import revocations
from authsvc.store.log_reading import Position
from authsvc.store.postgres.database import Database

# Seconds: each login and revocation waits for a commit.
_SLOW_COMMIT = 0.1


async def freshness(deployment: Deployment) -> Sequence[Finding]:
    """Write a revocation of nothing, and measure until a reader knows it.

    It names a session that does not exist and ends nothing; the row is removed with old ones.
    """
    if not deployment.options.may_write:
        raise Skip("it writes a row, which --read-only forbids")
    database = await deployment.database()
    staleness = deployment.settings.sessions.cache_staleness
    subject = SessionId(uuid4())
    reading, seen = asyncio.Event(), asyncio.Event()

    def note_position(_position: Position, _started: float) -> None:
        reading.set()

    def note(revocation: LoggedRevocation) -> None:
        if revocation.id == str(subject):
            seen.set()

    follower = LogFollower(
        database=database,
        source=revocations.LOG,
        staleness=staleness,
        on_event=note,
        on_gap=lambda: None,
        on_position=note_position,
    )
    run = asyncio.create_task(follower.run())
    try:
        await reading.wait()
        commit = await _append(database, deployment, subject)
        began = time.perf_counter()
        await seen.wait()
        delay = time.perf_counter() - began
    finally:
        run.cancel()
        await asyncio.wait([run])
    return judge(delay, commit, staleness.total_seconds())


def judge(delay: float, commit: float, bound: float) -> Sequence[Finding]:
    """Return what to say of these seconds until a revocation was known, and of its commit."""
    measured = (
        f"a revocation was committed in {commit * 1000:.0f} ms and known to a reader that only"
        f" polls {delay * 1000:.0f} ms later"
    )
    if delay > bound:
        return [
            error(
                f"{measured}: replicas must know it within {bound:g} s (sessions.cache_staleness),"
                " and bypass their caches while they don't",
                "look at database.latency and at the load of the server",
            )
        ]
    if commit > _SLOW_COMMIT:
        return [
            warning(
                f"{measured}: commits are slow",
                "look at the server's disk (WAL), and at the distance to a synchronous standby",
            )
        ]
    return [ok(measured)]


async def _append(database: Database, deployment: Deployment, subject: SessionId) -> float:
    """Commit a revocation of caches alone; return how many seconds that took."""
    now = (await deployment.clock()).now()
    began = time.perf_counter()
    async with database.transaction() as connection:
        await revocations.append(connection, now, session_ids=[subject], cache_only=True)
    return time.perf_counter() - began
