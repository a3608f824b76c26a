"""Faults of whole replicas, and an installation that none befalls."""

import asyncio
import signal

from tests.support.probe import outcome
from tests.world.alerts.scene import Scene, flood


async def replicas_end(scene: Scene) -> None:
    async with scene.installation("gone") as installation:
        await installation.start()
        await installation.start()

        async def kill_one() -> None:
            await installation.replicas[-1].end()

        async def start_one() -> None:
            await installation.restart(installation.replicas[-1])

        await scene.stage.try_alerts(
            installation,
            "a replica is killed",
            ("AuthsvcReplicaDown",),
            cause=kill_one,
            repair=start_one,
        )

        async def kill_all() -> None:
            for replica in installation.replicas:
                await replica.end()

        async def start_all() -> None:
            for replica in [*installation.replicas]:
                await installation.restart(replica)

        await scene.stage.try_alerts(
            installation,
            "all replicas are killed",
            ("AuthsvcDown",),
            cause=kill_all,
            repair=start_all,
        )


async def replica_crashes(scene: Scene) -> None:
    """Restart a replica on purpose, which is no crash, and then let it crash."""
    async with scene.installation("crashing") as installation:
        kept = {"STATE_DIRECTORY": str(installation.folder)}
        await installation.start(**kept)
        prometheus = scene.stage.prometheus

        async def end_and_start(number: int) -> None:
            [replica] = installation.replicas
            await replica.end(number)
            await installation.restart(replica, **kept)
            await prometheus.until(f'up{{instance="{replica.http}"}} == 1')

        started = f'process_start_time_seconds{{job="{installation.job}"}}'
        planned = f'authsvc_planned_stops_total{{job="{installation.job}"}}'
        await prometheus.until(f"{planned} == 0")
        for number in range(1, 4):
            await end_and_start(signal.SIGTERM)
            await prometheus.until(f"{planned} == {number}")
        assert await prometheus.query(f"changes({started}[60s]) > 2")
        assert ("AuthsvcRestarting", installation.job) not in scene.stage.fired
        is_repaired = asyncio.Event()
        crashing: list[asyncio.Task[None]] = []

        async def crash() -> None:
            while not is_repaired.is_set():
                await end_and_start(signal.SIGKILL)

        async def cause() -> None:
            crashing.append(asyncio.ensure_future(crash()))

        async def repair() -> None:
            is_repaired.set()
            await asyncio.gather(*crashing)

        await scene.stage.try_alerts(
            installation,
            "a replica crashes again and again",
            ("AuthsvcRestarting",),
            cause=cause,
            repair=repair,
        )


async def nothing_happens(scene: Scene, is_over: asyncio.Event) -> None:
    """Serve calls, and replace the replicas one after the other, as a rollout does."""
    async with scene.installation("quiet") as installation:
        for _ in range(2):
            installation.load(await installation.start())
        login = flood(installation.replicas[0])
        while not is_over.is_set():
            assert await outcome(login()) == "CREDENTIALS_INVALID"
            leaving = installation.replicas[0]
            installation.load(await installation.start())
            installation.replicas.remove(leaving)
            installation.scrape()
            await scene.stage.prometheus.until(f'absent(up{{instance="{leaving.http}"}})')
            await leaving.end(signal.SIGTERM)
            login = flood(installation.replicas[0])
            await asyncio.wait({asyncio.ensure_future(is_over.wait())}, timeout=60)
