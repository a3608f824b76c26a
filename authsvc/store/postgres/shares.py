"""Owns the share of the pool that one key may have, so that its locked row delays no other's."""

import asyncio
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from authsvc.errors import StoreUnavailable


@dataclass(slots=True)
class _Share:
    held: int = 0
    waiters: deque[asyncio.Future[None]] = field(default_factory=deque)


class Shares:
    """Allows `limit` uses of each key at a time; others wait in order, up to `patience` seconds."""

    def __init__(self, limit: int, patience: float) -> None:
        self._limit = limit
        self._patience = patience
        self._shares: dict[Hashable, _Share] = {}

    async def enter(self, key: Hashable) -> None:
        """Return when the key's share has room, to be given back by `leave`.

        Raises StoreUnavailable if it has none in time.
        """
        share = self._shares.get(key)
        if share is None:
            share = self._shares[key] = _Share()
        if share.held < self._limit:
            share.held += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        share.waiters.append(waiter)
        try:
            async with asyncio.timeout(self._patience):
                await waiter
        except BaseException as error:
            if waiter in share.waiters:
                share.waiters.remove(waiter)
            elif not waiter.cancelled():
                self.leave(key)
            if isinstance(error, TimeoutError):
                raise StoreUnavailable("Too many calls wait for the same row.") from None
            raise

    def leave(self, key: Hashable) -> None:
        """Give back what `enter` gave."""
        share = self._shares[key]
        while share.waiters:
            waiter = share.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        share.held -= 1
        if not share.held:
            del self._shares[key]
