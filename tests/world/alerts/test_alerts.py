"""Each alert fires by its real fault on a real Prometheus, and ends; its runbook's commands work.

The rules are the committed ones with times divided by 360. All faults are had at the same time,
each by an installation of its own; one more, to which nothing happens, raises no alert.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.store.postgres.migrator import migrate
from deploy.observability.__main__ import alerts
from tests.support.databases import running_server
from tests.support.prometheus import Prometheus
from tests.world.alerts import attacks, database, load, outside, replicas, settings
from tests.world.alerts.scene import Scene
from tests.world.alerts.stage import Stage

_DIVISOR = 360
_FAULTS: tuple[Callable[[Scene], Awaitable[None]], ...] = (
    settings.certificate_ends,
    database.database_freezes,
    database.tables_are_locked,
    database.listener_is_killed,
    database.network_is_slow,
    database.replica_is_cut_off,
    load.logins_flood,
    load.processor_is_taken_away,
    outside.outside_refuses,
    attacks.attacks,
    attacks.caller_hides_its_users,
    settings.settings_change,
    settings.replicas_differ,
    settings.migration_is_missing,
    settings.clock_is_wrong,
    replicas.replicas_end,
)
# What depends on how busy the machine of the tests is.
_SPEED = {
    "AuthsvcValidationLatencyBudgetBurn",
    "AuthsvcRevocationBudgetBurn",
    "AuthsvcEventLoopSlow",
    "AuthsvcHashQueueLong",
    "AuthsvcPoolExhausted",
}


@pytest.fixture
def other_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A second server for this test only."""
    with running_server(tmp_path_factory) as server:
        yield server


@pytest.mark.world
@pytest.mark.timeout(1_800)
async def test_each_alert_fires_and_ends_and_its_runbook_works(
    own_server: EmbeddedPostgres,
    other_server: EmbeddedPostgres,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for server in (own_server, other_server):
        await migrate(server.dsn())
    async with Prometheus(tmp_path / "prometheus", divisor=_DIVISOR) as prometheus:
        stage = Stage(prometheus, tmp_path)
        scene = Scene(stage, tmp_path, own_server, other_server)
        is_over = asyncio.Event()
        watch = asyncio.ensure_future(stage.watch())
        quiet = asyncio.ensure_future(replicas.nothing_happens(scene, is_over))
        chosen = os.environ.get("ALERTS_FAULTS", "")
        try:
            async with asyncio.TaskGroup() as group:
                for fault in _FAULTS:
                    if chosen in fault.__name__:
                        group.create_task(fault(scene))
        finally:
            is_over.set()
            with capsys.disabled():
                print(f"\n{stage.table()}")
            await quiet
            watch.cancel()
    assert {row.alert for row in stage.rows} == {alert.name for alert in alerts()}
    assert {name for name, job in stage.fired if job == "quiet-authsvc"} <= _SPEED
