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

        async def crash() -> None:
            for crashes in range(1, 4):
                replica = installation.replicas[-1]
                await replica.end()
                await installation.restart(replica)
                started = f'process_start_time_seconds{{instance="{replica.http}"}}'
                await scene.stage.prometheus.until(f"changes({started}[1h]) >= {crashes}")

        await scene.stage.try_alerts(
            installation,
            "a replica crashes three times",
            ("AuthsvcRestarting",),
            cause=crash,
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
            await leaving.end(signal.SIGTERM)
            login = flood(installation.replicas[0])
            await asyncio.wait({asyncio.ensure_future(is_over.wait())}, timeout=60)
