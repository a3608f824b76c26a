"""Faults of too much work, or too little to do it with."""

import asyncio
import signal
from contextlib import AsyncExitStack

from tests.world.alerts.scene import Scene, flood, going_on


async def logins_flood(scene: Scene) -> None:
    async with scene.installation("hashing") as installation, AsyncExitStack() as stack:
        replica = await installation.start(AUTHSVC_PASSWORDS__HASH_WORKERS="1")

        async def cause() -> None:
            await stack.enter_async_context(going_on(flood(replica), 100))

        await scene.stage.try_alerts(
            installation,
            "100 clients log in without pause",
            ("AuthsvcHashQueueLong", "AuthsvcOverloaded"),
            cause=cause,
            repair=stack.aclose,
        )


async def processor_is_taken_away(scene: Scene) -> None:
    async with scene.installation("starved") as installation, AsyncExitStack() as stack:
        replica = await installation.start()

        async def pause() -> None:
            replica.process.send(signal.SIGSTOP)
            await asyncio.sleep(0.3)
            replica.process.send(signal.SIGCONT)
            await asyncio.sleep(0.2)

        async def cause() -> None:
            await stack.enter_async_context(going_on(pause))

        async def repair() -> None:
            await stack.aclose()
            replica.process.send(signal.SIGCONT)

        await scene.stage.try_alerts(
            installation,
            "the process is stopped for most of each half second",
            ("AuthsvcEventLoopSlow",),
            cause=cause,
            repair=repair,
        )
