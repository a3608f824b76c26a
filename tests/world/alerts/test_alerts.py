"""Each alert fires by its real fault on a real Prometheus, and ends; its runbook's commands work.

The rules are the committed ones with times divided by 360. Several faults are had at the same
time, each by an installation of its own; one more, to which nothing happens, raises no alert.
`ALERTS_FAULTS="certificate_ends attacks"` tries only these.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.store.postgres.migrator import migrate
from deploy.observability.__main__ import alerts
from tests.support.databases import running_server
from tests.support.prometheus import Prometheus
from tests.world.alerts import attacks, database, load, outside, replicas, settings
from tests.world.alerts.scene import Scene
from tests.world.alerts.stage import TABLE, Stage

Fault: TypeAlias = Callable[[Scene], Awaitable[None]]

_DIVISOR = 360
# How many faults there are at a time.
_PARALLEL = 5
# Those that take longest come first.
_FAULTS: tuple[Fault, ...] = (
    database.database_freezes,
    database.replica_is_cut_off,
    outside.outside_refuses,
    settings.certificate_ends,
    attacks.attacks,
    replicas.replicas_end,
    replicas.replica_crashes,
    settings.settings_change,
    settings.replicas_differ,
    settings.migration_is_missing,
    settings.clock_is_wrong,
    attacks.caller_hides_its_users,
    database.listener_is_killed,
    database.tables_are_locked,
    load.processor_is_taken_away,
    load.logins_flood,
)
# While others keep the machine busy, validations stay slow after the network has become fast again.
_ALONE = (database.network_is_slow,)
# What depends on how busy the machine of the tests is: a scrape has 0.4 s.
_SPEED = {
    "AuthsvcDown",
    "AuthsvcValidationLatencyBudgetBurn",
    "AuthsvcRevocationBudgetBurn",
    "AuthsvcEventLoopSlow",
    "AuthsvcHashQueueLong",
    "AuthsvcPoolExhausted",
    "AuthsvcReplicaDown",
    "AuthsvcRevocationListenerBehind",
}


@pytest.fixture
def other_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A second server for this test only."""
    with running_server(tmp_path_factory) as server:
        yield server


@pytest.mark.world
@pytest.mark.alone
@pytest.mark.timeout(1_800)
async def test_each_alert_fires_and_ends_and_its_runbook_works(
    own_server: EmbeddedPostgres,
    other_server: EmbeddedPostgres,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = os.environ.get("ALERTS_FAULTS", "").split()
    for server in (own_server, other_server):
        await migrate(server.dsn())
    async with Prometheus(tmp_path / "prometheus", divisor=_DIVISOR) as prometheus:

        def say(line: str) -> None:
            with capsys.disabled():
                print(line, flush=True)

        say(f"\n{TABLE}")
        stage = Stage(prometheus, tmp_path, say)
        scene = Scene(stage, tmp_path, own_server, other_server)
        is_over = asyncio.Event()
        watch = asyncio.ensure_future(stage.watch())
        quiet = asyncio.ensure_future(replicas.nothing_happens(scene, is_over))
        slots = asyncio.Semaphore(_PARALLEL)

        async def have(fault: Fault) -> None:
            async with slots:
                await fault(scene)

        def wanted(faults: Iterable[Fault]) -> list[Awaitable[None]]:
            return [have(fault) for fault in faults if not chosen or fault.__name__ in chosen]

        # One that fails must not end the others.
        results = await asyncio.gather(*wanted(_FAULTS), return_exceptions=True)
        results += await asyncio.gather(*wanted(_ALONE), return_exceptions=True)
        is_over.set()
        await quiet
        watch.cancel()
    failed = [result for result in results if isinstance(result, Exception)]
    if failed:
        raise ExceptionGroup("faults", failed)
    if not chosen:
        assert {row.alert for row in stage.rows} == {alert.name for alert in alerts()}
    assert {name for name, job in stage.fired if job == "quiet-authsvc"} <= _SPEED
