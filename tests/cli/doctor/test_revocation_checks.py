"""`authsvc doctor` writes a revocation of nothing, and notices when no reader learns of it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from authsvc.cli.doctor.findings import Level
from authsvc.cli.doctor.revocation_checks import judge
from authsvc.config import Settings
from authsvc.store.postgres.connector import Connection
from tests.support.databases import settings_for
from tests.support.doctor import examine, levels, only


@pytest.fixture
def own(settings: Settings, database_dsn: str) -> Settings:
    return settings.model_copy(update={"database": settings_for(database_dsn)})


@pytest_asyncio.fixture
async def connection(database_dsn: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(database_dsn)
    yield connection
    await connection.close()


async def test_revocation_is_known_to_a_reader(own: Settings, connection: Connection) -> None:
    found = await examine("revocations.freshness", own)
    assert len(found) == 1
    assert "known to a reader that only polls" in found[0].text
    [row] = await connection.fetch("SELECT * FROM revocations")
    # Replicas drop what they have cached of a session that does not exist: nothing ends.
    assert (row["cache_only"], row["user_id"], row["key_id"]) == (True, None, None)
    assert await connection.fetchval("SELECT count(*) FROM audit_events") == 0


async def test_nothing_is_written_if_told_so(own: Settings, connection: Connection) -> None:
    assert await levels("revocations.freshness", own, may_write=False) == [Level.SKIPPED]
    assert await connection.fetchval("SELECT count(*) FROM revocations") == 0


async def test_revocation_that_gets_lost_is_an_error(own: Settings, connection: Connection) -> None:
    await connection.execute(
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER lose BEFORE INSERT ON revocations FOR EACH ROW EXECUTE FUNCTION lose()"
    )
    text = await only(Level.ERROR, "revocations.freshness", own, timeout=1.5)
    assert text == "it was not done within 1.5 s"


async def test_log_that_may_not_be_written_is_an_error(
    own: Settings, connection: Connection
) -> None:
    await connection.execute("REVOKE INSERT ON revocations FROM current_user")
    text = await only(Level.ERROR, "revocations.freshness", own)
    assert "permission denied" in text


@pytest.mark.parametrize(
    ("delay", "commit", "level"),
    [(0.9, 0.01, Level.OK), (1.1, 0.01, Level.ERROR), (0.3, 0.5, Level.WARNING)],
)
def test_what_was_measured_is_compared_with_the_bound(
    delay: float, commit: float, level: Level
) -> None:
    [finding] = judge(delay, commit, 1.0)
    assert finding.level is level
