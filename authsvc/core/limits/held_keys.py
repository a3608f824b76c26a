"""Owns the keys whose rows another session holds: what needs them waits here, apart from the rest.

Checks share statements, so one locked row would stop every check of this replica. A charge waits
only 50 ms for a row. Then the keys that are held are found out, and polled together: no connection
waits for them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from typing import NamedTuple, TypeVar

import structlog

from authsvc.errors import ServiceError, StoreUnavailable
from authsvc.models.limits import Charge
from authsvc.store import rate_limits as store
from authsvc.store.postgres.database import Connection, Database

_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 3.0
# Callers of a key that is held must not fill up the calls in progress.
_MAX_WAITING = 200

log = structlog.get_logger(__name__)

Result = TypeVar("Result")


class _HeldKey(NamedTuple):
    rule: store.Rule
    released: asyncio.Event


class HeldKeys:
    """The keys that are known to be held, by policy and key."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys: dict[tuple[str, str], _HeldKey] = {}
        self._waiting = 0
        self._poller: asyncio.Task[None] | None = None

    def __bool__(self) -> bool:
        return bool(self._keys)

    def include(self, charges: Iterable[Charge]) -> bool:
        """Return whether the key of any of the charges is held."""
        keys = self._keys
        return bool(keys) and any((policy, key) in keys for policy, key, _ in charges)

    async def find(
        self, connection: Connection, rules: Sequence[store.Rule], keys: Sequence[str]
    ) -> None:
        """Ask the database which of these keys are held; they are included until released."""
        for index in await store.held(connection, rules, keys):
            rule = rules[index]
            self._keys.setdefault((rule.policy, keys[index]), _HeldKey(rule, asyncio.Event()))
        if self._keys and self._poller is None:
            policies = sorted({policy for policy, _ in self._keys})
            log.warning("rate_limit_keys_held", policies=policies)
            self._poller = asyncio.create_task(self._poll(), context=Context())

    async def run(self, charges: Sequence[Charge], act: Callable[[], Awaitable[Result]]) -> Result:
        """Return the result of `act`; while it raises KeysHeld, repeat it as keys are released.

        Raises:
            StoreUnavailable: A key was held for too long, or too many callers wait for such keys.
        """
        if not self.include(charges):
            with suppress(store.KeysHeld):
                return await act()
        if self._waiting >= _MAX_WAITING:
            raise _still_held()
        self._waiting += 1
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while True:
                    await self._released(charges)
                    with suppress(store.KeysHeld):
                        return await act()
        except TimeoutError:
            raise _still_held() from None
        finally:
            self._waiting -= 1

    async def _released(self, charges: Sequence[Charge]) -> None:
        for policy, key, _ in charges:
            while (held := self._keys.get((policy, key))) is not None:
                await held.released.wait()

    async def _poll(self) -> None:
        try:
            while self._keys:
                await asyncio.sleep(_POLL_SECONDS)
                await self._look()
        except ServiceError:
            # The database fails for another reason, which the callers find out for themselves.
            log.info("rate_limit_keys_unknown")
        finally:
            self._poller = None
            self._release(list(self._keys))

    async def _look(self) -> None:
        names = list(self._keys)
        rules = [self._keys[name].rule for name in names]
        async with self._database.connection() as connection:
            held = set(await store.held(connection, rules, [key for _, key in names]))
        self._release([name for index, name in enumerate(names) if index not in held])

    def _release(self, names: Iterable[tuple[str, str]]) -> None:
        for name in names:
            self._keys.pop(name).released.set()


def _still_held() -> StoreUnavailable:
    return StoreUnavailable("The row of a limit is locked by another session.")
