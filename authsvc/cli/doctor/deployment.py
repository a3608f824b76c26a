"""Owns what the checks share: the settings, where callers are, and an open database."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from authsvc.cli.doctor.findings import Skip
from authsvc.config import Settings
from authsvc.core.lib.clock import DatabaseClock, SystemClock
from authsvc.core.lib.control_groups import ControlGroups
from authsvc.core.lib.sealing import Keyring
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.errors import StoreUnavailable
from authsvc.models.clock import Clock
from authsvc.store.postgres.database import Database

# Of its own: doctor must not exhaust the connections of a server that is short of them.
_CONNECTIONS = 4

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the settings can't say: how others reach the service, and what may be done.

    `targets` are addresses that callers use, `urls` those of the HTTP port; without any, the
    addresses of the settings are used. `ca` is what callers trust, `cert` and `key` a client's,
    `issuer_ca` is for the address of the issuer. Without `may_write`, nothing is written.
    """

    targets: Sequence[str] = ()
    urls: Sequence[str] = ()
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    issuer_ca: Path | None = None
    replicas: int | None = None
    may_write: bool = True
    timeout: float = 15.0


class Deployment:
    """The deployment that is checked; what several checks need is opened once, at first use."""

    def __init__(
        self,
        *,
        settings: Settings,
        options: Options = Options(),
        machine: Clock | None = None,
        groups: ControlGroups = ControlGroups(),
    ) -> None:
        self.settings = settings
        self.options = options
        self.machine = machine or SystemClock()
        self.groups = groups
        self._database = _Once(self._open_database)
        self._clock = _Once(self._open_clock)
        self._keys = _Once(self._read_keys)

    async def reach_database(self) -> Database:
        """Return the open database; raises StoreUnavailable."""
        return await self._database.get()

    async def database(self) -> Database:
        """Return the open database; raises Skip, as `database.reachable` reports why."""
        try:
            return await self.reach_database()
        except StoreUnavailable:
            raise Skip("the database can't be reached") from None

    async def clock(self) -> DatabaseClock:
        """Return the database's clock; raises Skip."""
        await self.database()
        return await self._clock.get()

    async def signing_keys(self) -> SigningKeys:
        """Return the signing keys as the database has them; raises Skip.

        They are only read: none is created, rotated or removed.
        """
        await self.database()
        return await self._keys.get()

    async def close(self) -> None:
        """Close what was opened."""
        for part in (self._clock, self._keys):
            part.cancel()
        if (database := self._database.cancel()) is not None:
            await database.close()

    async def _open_database(self) -> Database:
        changes = {"pool_min": 1, "pool_max": _CONNECTIONS}
        return await Database.open(self.settings.database.model_copy(update=changes))

    async def _open_clock(self) -> DatabaseClock:
        return await DatabaseClock.open(await self.reach_database(), self.machine)

    async def _read_keys(self) -> SigningKeys:
        keys = SigningKeys(
            database=await self.reach_database(),
            keyring=Keyring(self.settings.secrets.keyring),
            settings=self.settings.tokens,
            clock=await self._clock.get(),
        )
        await keys.refresh()
        return keys


@dataclass(eq=False)
class _Once(Generic[Value]):
    """Makes a value once; a check that is cancelled does not cancel it for the others."""

    make: Callable[[], Coroutine[Any, Any, Value]]
    task: asyncio.Task[Value] | None = field(default=None, init=False)

    async def get(self) -> Value:
        if self.task is None:
            self.task = asyncio.create_task(self.make())
            self.task.add_done_callback(_retrieve)
        return await asyncio.shield(self.task)

    def cancel(self) -> Value | None:
        """Stop making the value; return it if it was made."""
        if self.task is None:
            return None
        if not self.task.done():
            self.task.cancel()
            return None
        failed = self.task.cancelled() or self.task.exception() is not None
        return None if failed else self.task.result()


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Retrieve a failure, so that asyncio does not warn if all who waited were cancelled."""
    if not task.cancelled():
        task.exception()
