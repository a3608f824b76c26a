"""Owns the calls in progress: how many each caller may hold, their time limit, and their end.

Every bound is for each caller, and holds before the caller's roles are looked at: a stranger with
a certificate can open streams and send nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from math import inf
from typing import Any

from authsvc.config import GrpcSettings
from authsvc.core.lib.time_limit import expire
from authsvc.errors import Overloaded, Resource, ServiceError, ServiceStopping, StoreUnavailable
from authsvc.models.calls import Caller
from authsvc.rpc.access import Access
from authsvc.rpc.call_context import CallContext

_SWEEP_SECONDS = 0.1
_DRAIN_SECONDS = 0.05
_PROBE_SECONDS = 1.0
# How long a response of a stream may wait until its reader takes it.
WRITE_SECONDS = 30.0
# What stands in place of a call's expiry once it is cancelled, or has an outcome.
_EXPIRED, _EVICTED, _LEFT, _STALLED = -1.0, -2.0, -3.0, -4.0

# What callers may hold at once, in all and each, of what needs no role.
_PROBES = (64, 32)
_STRANGERS = (128, 32)
_WATCHES = (256, 64)


class Places:
    """Divides a number of places among callers, so that none can shut out the others.

    A caller may hold up to `limit_per_caller`. When all places are taken, one that holds less than
    half as many as the greediest gets a place of that one's: whoever holds none always gets one.
    """

    def __init__(self, limit: int, limit_per_caller: int) -> None:
        self._free = self.limit = limit
        self._limit_per_caller = limit_per_caller
        self._held: dict[str, int] = {}

    def take(self, caller: str) -> str | None:
        """Take a place for a caller; return who has lost one for it, or None.

        Raises:
            Overloaded: The caller holds its limit, or its share of what is taken.
        """
        held = self._held.get(caller, 0)
        if held >= self._limit_per_caller:
            raise Overloaded
        loser = None
        if not self._free:
            loser = max(self._held, key=self._held.__getitem__)
            if self._held[loser] <= 2 * held:
                raise Overloaded
            self.give_back(loser)
        self._free -= 1
        self._held[caller] = held + 1
        return loser

    def give_back(self, caller: str) -> None:
        """Give back a place of a caller."""
        self._free += 1
        if left := self._held[caller] - 1:
            self._held[caller] = left
        else:
            del self._held[caller]


class InFlight:
    """Limits the calls in progress, and cancels those that exceed their time limit.

    A call counts until its task is done, which is when gRPC has sent the response: a client may
    delay that for as long as its connection lasts. One timer checks all time limits, as a timer for
    each call would cost several microseconds; so a call is cancelled up to a tenth of a second
    late.
    """

    def __init__(self, places: Places, long_lived: Places) -> None:
        self._places = places
        self._long_lived = long_lived
        self._calls: dict[asyncio.Task[Any], CallContext] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeping = False

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def limit(self) -> int:
        """The number of calls that can be in progress at once."""
        return self._places.limit + self._long_lived.limit

    def enter(self, call: CallContext, timeout: float) -> None:
        """Admit the call of the current task for `timeout` seconds.

        Raises:
            Overloaded: Too many calls are in progress, of its caller or in all.
        """
        self._take(call, self._places)
        call.pool = self
        # Finding the loop takes a system call.
        loop = self._loop or asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None  # noqa: S101 - a coroutine always runs in a task
        call.expiry = loop.time() + timeout
        self._calls[task] = call
        task.add_done_callback(self._finished)
        if not self._sweeping:
            self._loop, self._sweeping = loop, True
            loop.call_later(_SWEEP_SECONDS, self._sweep)

    def let_last(self, call: CallContext) -> None:
        """End the time limit of a call, which counts as long-lived from now on.

        Raises:
            Overloaded: Too many calls are long-lived, of its caller or in all.
        """
        if call.expiry > 0:
            taken = call.places
            self._take(call, self._long_lived)
            if taken is not None:
                taken.give_back(call.key)
            call.expiry = inf

    def running(self) -> dict[asyncio.Task[Any], CallContext]:
        """Return the calls in progress by their tasks."""
        return dict(self._calls)

    def hurry(self, seconds: float) -> None:
        """Give the calls in progress no more than this time, long-lived ones too."""
        latest = asyncio.get_running_loop().time() + seconds
        for call in self._calls.values():
            call.expiry = min(call.expiry, latest)

    def end_endless(self) -> None:
        """Cancel the calls that would never end by themselves."""
        now = asyncio.get_running_loop().time()
        for call in self._calls.values():
            if call.endless:
                call.expiry = min(call.expiry, now)

    def _take(self, call: CallContext, places: Places) -> None:
        loser = places.take(call.key)
        call.places = places
        if loser is not None:
            self._evict(loser, places)

    def _evict(self, caller: str, places: Places) -> None:
        """Cancel a caller's oldest call that holds one of these places, which is taken already."""
        for task, call in self._calls.items():
            if call.key == caller and call.places is places:
                call.places = None
                if call.expiry > 0:
                    call.expiry = _EVICTED
                    expire(task)
                return

    def _finished(self, task: asyncio.Task[Any]) -> None:
        call = self._calls.pop(task)
        if call.places is not None:
            call.places.give_back(call.key)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for task, call in self._calls.items():
            if 0 < call.expiry <= now:
                call.expiry = _EXPIRED
                expire(task)
            elif call.write_expiry <= now and call.expiry > 0:
                call.expiry = _STALLED
                expire(task)
        self._sweeping = bool(self._calls)
        if self._sweeping:
            loop.call_later(_SWEEP_SECONDS, self._sweep)


class Load:
    """All calls in progress, counted apart so that they can't take one another's places.

    `calls` are those of callers with a role, and `probes` their health checks. Whatever callers
    without a role send, they only share places with one another.
    """

    def __init__(self, settings: GrpcSettings) -> None:
        calls = (settings.max_concurrent_rpcs, settings.max_concurrent_rpcs_per_caller)
        self.calls = InFlight(Places(*calls), Places(*calls))
        self.probes = InFlight(Places(*_PROBES), Places(*_WATCHES))
        self.strangers = InFlight(Places(*_STRANGERS), Places(*_WATCHES))
        self.stopping = False

    @property
    def limit(self) -> int:
        """The number of calls that can be in progress at once."""
        return self.calls.limit + self.probes.limit + self.strangers.limit

    def pool(self, caller: Caller, access: Access) -> InFlight:
        """Return where a caller's calls of an RPC are counted.

        Raises:
            ServiceStopping: The service accepts only health checks any more.
        """
        if self.stopping and not access.any_certificate:
            raise ServiceStopping
        if not caller.roles:
            return self.strangers
        return self.probes if access.any_certificate else self.calls

    def leave(self, call: CallContext) -> ServiceError | None:
        """End the time limit of the current task's call; return why it was cancelled, if it was."""
        expiry, call.expiry = call.expiry, _LEFT
        if expiry >= 0:
            return None
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine always runs in a task
        task.uncancel()
        if expiry == _EVICTED:
            return Overloaded()
        if expiry == _STALLED:
            return Overloaded("The responses are read too slowly.", what=Resource.STREAMS)
        return ServiceStopping() if self.stopping else StoreUnavailable("The call took too long.")

    def refuse(self) -> None:
        """Refuse further calls, and end endless streams.

        Health checks are still answered, but those without a message delay the end by no more than
        a second, and so does whatever a stranger calls.
        """
        self.stopping = True
        self.calls.end_endless()
        for pool in (self.probes, self.strangers):
            pool.hurry(_PROBE_SECONDS)

    async def drain(self) -> AsyncIterator[Collection[str]]:
        """Yield the peers of the calls in progress until there is none."""
        waiting = {
            task: call.peer()
            for pool in (self.calls, self.probes, self.strangers)
            for task, call in pool.running().items()
        }
        while waiting:
            yield frozenset(waiting.values())
            done, _ = await asyncio.wait(waiting, timeout=_DRAIN_SECONDS)
            for task in done:
                del waiting[task]

    def stop(self) -> None:
        """Cancel all calls in progress; they end with SERVICE_STOPPING."""
        for pool in (self.calls, self.probes, self.strangers):
            pool.hurry(0)
