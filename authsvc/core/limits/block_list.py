"""Owns a replica's copy of the blocks: read whole once, and then what changes."""

import asyncio
from collections.abc import Iterable
from datetime import timedelta

import structlog

from authsvc.core.lib.clock import elapsed
from authsvc.core.lib.log_follower import LogFollower
from authsvc.core.limits.ip_blocks import IpBlocks
from authsvc.core.limits.networks import Networks
from authsvc.errors import StoreUnavailable
from authsvc.models.clock import Clock
from authsvc.models.ip_blocks import Network
from authsvc.store import ip_blocks as store
from authsvc.store.postgres.database import Database

log = structlog.get_logger(__name__)

# A block is known everywhere this soon, or the database is asked.
_STALENESS = timedelta(seconds=1)
# Rows read at once: they keep the event loop for a few milliseconds.
_PAGE = 1_000
# Added blocks take three times the memory of others, and more time.
_MAX_ADDED = 20_000
_ADDED_SHARE = 16
_BACKOFF = 1.0
# A read takes a few milliseconds.
_CATCH_UP_STEP = 0.003


class BlockList:
    """Tells until when an address is blocked: from memory or, if that may be stale, the database.

    The addresses in `allowed` are never blocked.
    """

    def __init__(self, *, database: Database, allowed: Iterable[Network], clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.allowed = Networks(allowed)
        self._blocks = IpBlocks()
        # What has changed since the blocks are being read, by network.
        self._changes: dict[str, float] = {}
        self._gaps = 0
        self._is_complete = False
        self._reload = asyncio.Event()
        self._follower = LogFollower(
            database=database,
            source=store.LOG,
            staleness=_STALENESS,
            on_event=self._on_change,
            on_gap=self._on_gap,
        )
        self.ring = self._follower.ring
        self.age = self._follower.age

    def __len__(self) -> int:
        return len(self._blocks)

    def replace_allowed(self, allowed: Iterable[Network]) -> None:
        """Never block these networks, and no others, from now on."""
        self.allowed = Networks(allowed)

    def is_fresh(self) -> bool:
        """Return whether every block made more than a second ago is in memory."""
        return self._is_complete and self._follower.is_fresh()

    async def remaining(self, address: str) -> float:
        """Return for how many seconds a canonical address is still blocked; 0 if it is not.

        The answer is infinite for a block that lasts until it is lifted.

        Raises:
            StoreUnavailable: The copy is not fresh, and the database does not answer.
        """
        if self.allowed.contain(address):
            return 0.0
        now = self._clock.now()
        if self.is_fresh():
            end = self._blocks.end_of(address)
        else:
            async with self._database.connection() as connection:
                end = await store.end_of(connection, address, now)
        return max(end - now.timestamp(), 0.0)

    async def catch_up(self) -> None:
        """Wait until everything that has been committed so far is in memory, if it is in use."""
        committed = elapsed()
        self.ring()
        while self.is_fresh() and elapsed() - self.age() < committed:  # noqa: ASYNC110 - rare
            await asyncio.sleep(_CATCH_UP_STEP)

    def add(self, network: str, end: float) -> None:
        """Let a network count as blocked, which is about to be stored, unless it is already."""
        address = network.partition("/")[0]
        if self.is_fresh() and self._blocks.end_of(address) <= self._clock.now().timestamp():
            self._put(network, end)

    async def run(self) -> None:
        """Follow the changes, and read all blocks when some may have been missed."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follower.run())
            tasks.create_task(self._keep_complete())

    def _on_change(self, change: tuple[str, float]) -> None:
        self._put(*change)

    def _on_gap(self) -> None:
        self._gaps += 1
        self._is_complete = False
        self._reload.set()

    def _put(self, network: str, end: float) -> None:
        self._blocks.put(network, end)
        self._changes[network] = end
        if self._blocks.added > max(_MAX_ADDED, len(self._blocks) // _ADDED_SHARE):
            self._reload.set()

    async def _keep_complete(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            try:
                await self._load()
            except StoreUnavailable:
                self._reload.set()
                await asyncio.sleep(_BACKOFF)

    async def _load(self) -> None:
        """Read all blocks.

        The position from which changes are followed was taken before: what is missing in the rows
        comes as a change, and after the rows.
        """
        gaps, self._changes = self._gaps, {}
        blocks = IpBlocks()
        now, after = self._clock.now(), None
        while True:
            async with self._database.connection() as connection:
                rows = await store.load_after(connection, now, after, _PAGE)
            for after, end in rows:
                blocks.append(after, end)
            if len(rows) < _PAGE:
                break
        if gaps != self._gaps:
            return
        for network, end in self._changes.items():
            blocks.put(network, end)
        self._blocks, self._changes, self._is_complete = blocks, {}, True
        log.info("ip_blocks_loaded", count=len(blocks))
