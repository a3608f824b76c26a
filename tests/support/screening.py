"""Replicas that screen requests and block addresses, on one database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from authsvc.config import BlockSettings, BruteForceSettings, RateLimitSettings
from authsvc.core.lib.networks import parse_network
from authsvc.core.lib.slices import Slices
from authsvc.core.limits.block_list import BlockList
from authsvc.core.limits.blocking import IpBlocking
from authsvc.core.limits.limiter import RateLimiter, policies_from
from authsvc.core.limits.rejected_cache import RejectedCache
from authsvc.core.limits.screening import Screening
from authsvc.core.limits.violations import Violations
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.ip_blocks import BlockRequest, IpBlock, Unblocked
from authsvc.store.postgres.database import Database
from tests.support.databases import until
from tests.support.jobs import running

OPERATOR = Call(request_id="r-1", caller="spiffe://authsvc.test/admin")
_EPOCH_US = 1_000_000


class Replica:
    """The parts of a replica that have to do with blocks; all of its clocks are `clock`."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        networks: BruteForceSettings | None = None,
        **settings: Any,
    ) -> None:
        self.networks = networks or BruteForceSettings()
        self.settings = BlockSettings.model_validate(settings)
        self.clock = clock
        self.blocks = BlockList(
            database=database, allowed=self.settings.allowed_networks(), clock=clock
        )
        self.violations = Violations(
            database=database,
            blocks=self.blocks,
            settings=self.settings,
            networks=self.networks,
            slices=Slices(),
            clock=clock,
            at_us=self._now_us,
        )
        self.limiter = RateLimiter(
            database=database,
            policies=policies_from(RateLimitSettings().all_policies()),
            rejected_cache_size=1_000,
            clock=self._now_us,
        )
        self.limiter._rejected = RejectedCache(1_000, lambda: clock.now().timestamp())
        self.screening = Screening(
            blocks=self.blocks,
            violations=self.violations,
            limiter=self.limiter,
            networks=self.networks,
        )
        self.blocking = IpBlocking(
            database=database,
            blocks=self.blocks,
            violations=self.violations,
            settings=self.settings,
            clock=clock,
        )

    async def screen(self, ip: str, policy: str = "login") -> str:
        """Screen a request; return why it is refused, or "" if it is not."""
        return (await self.screening.screen(ip, policy)).reason or ""

    async def block(
        self, network: str, duration: timedelta | None = None, *, confirm_wide: bool = False
    ) -> IpBlock:
        request = BlockRequest(parse_network(network), "a test", duration, confirm_wide)
        return await self.blocking.block(OPERATOR, request)

    async def unblock(self, network: str) -> Unblocked:
        return await self.blocking.unblock(OPERATOR, parse_network(network))

    async def listed(self) -> list[str]:
        """Return the networks that are blocked, in the order of the list."""
        return [block.network for block in await self.blocking.list_after(None, 1_000)]

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Keep the replica's copy of the blocks fresh within the block."""
        async with running(self.blocks):
            await self.fresh()
            yield

    async def fresh(self) -> None:
        """Wait until the copy is fresh."""

        async def is_fresh() -> bool:
            return self.blocks.is_fresh()

        await until(is_fresh)

    async def knows(self, address: str, *, blocked: bool) -> None:
        """Wait until the replica's memory says whether an address is blocked."""
        self.blocks.ring()

        async def is_known() -> bool:
            now = self.clock.now().timestamp()
            return (self.blocks._blocks.end_of(address) > now) == blocked

        await until(is_known)

    def _now_us(self) -> int:
        return round(self.clock.now().timestamp() * _EPOCH_US)


async def refused(replica: Replica, ip: str, times: int) -> None:
    """Let the policy `login` refuse requests of an address so many times."""
    answers = [await replica.screen(ip) for _ in range(5)]
    assert answers == [""] * 5
    await asyncio.sleep(0)
    for _ in range(times):
        assert await replica.screen(ip) == "RATE_LIMITED"
