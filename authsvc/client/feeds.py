"""Owns what brings the keys and revocations of a service into memory: once for each client.

`AsyncFeed` does it in tasks, `Feed` in threads; what they do is decided in `following` and
`key_set`. After silence they use new connections: gRPC itself finds out a minute later that nobody
is at the other end of the old ones.
"""

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc

from authsvc.client.connection import AsyncClient, Client
from authsvc.client.errors import AuthsvcError, CertificateRefused
from authsvc.client.following import Following
from authsvc.client.freshness import elapsed
from authsvc.client.jitter import JITTER
from authsvc.client.knowledge import Knowledge
from authsvc.v1.auth_service_pb2 import GetJwksRequest, GetJwksResponse
from authsvc.v1.session_service_pb2 import WatchRevocationsResponse

_log = logging.getLogger("authsvc.client")
# Seconds between two looks at what is due.
_TICK = 0.1
_SHORT = 0.01
# Seconds that a fetch of the keys may take.
_FETCH = 5.0
# Seconds that closing waits for a thread, which ends at once.
_CLOSING = 5.0
_PERMANENT = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED)


class _Feed:
    """What both feeds have in common.

    Attributes:
        failure: Why nothing can ever arrive with this configuration, as far as is known.
    """

    def __init__(self) -> None:
        self.knowledge = Knowledge()
        self.following = Following(self.knowledge)
        self.failure: AuthsvcError | None = None
        self.observers: list[Callable[[], None]] = []
        self._keys_wanted = False
        self._keys_due = 0.0

    @property
    def is_decided(self) -> bool:
        """Whether it is known by now that the feed works, or that it can't."""
        return self.failure is not None or self.knowledge.is_usable(elapsed())

    def want_keys(self) -> None:
        """Fetch the keys soon for the sake of an unknown id; callable in any thread."""
        self._keys_wanted = True

    def _is_fetch_due(self, now: float) -> bool:
        keys = self.knowledge.keys
        return now >= self._keys_due or (self._keys_wanted and keys.may_fetch(now))

    def _begin_fetch(self) -> None:
        now = elapsed()
        self._keys_wanted = False
        # If it fails; spread, as many verifiers miss the service at once.
        self._keys_due = now + JITTER.uniform(2, 6)
        self.knowledge.counts["key_fetches"] += 1
        self.knowledge.keys.begin(now)

    def _install(self, response: GetJwksResponse) -> None:
        now = elapsed()
        expires = response.expire_time.ToDatetime(UTC)
        seconds = (expires - datetime.now(UTC)).total_seconds()
        # Older services don't say whether they have others.
        are_all = response.HasField("has_secret_keys") and not response.has_secret_keys
        keys = self.knowledge.keys
        until = keys.install(response.jwks_json, seconds, now, are_all=are_all)
        # A little earlier, and not all verifiers at once.
        self._keys_due = now + (until - now) * JITTER.uniform(0.8, 1)

    def _fetch_failed(self, error: Exception) -> None:
        self.knowledge.counts["key_fetches_failed"] += 1
        _log.warning("the verifier can't fetch keys: %s", error)

    def _receive(self, response: WatchRevocationsResponse) -> bool:
        """Take in a response; return whether to go on with this stream."""
        self.failure = None
        return self.following.receive(response, elapsed())

    def _end(self, error: Exception | None) -> float:
        """End a stream; return how many seconds to wait before the next."""
        if isinstance(error, CertificateRefused) or (
            isinstance(error, AuthsvcError) and error.code in _PERMANENT
        ):
            self.failure = error
        return self.following.end(error, elapsed())

    def _observe(self) -> None:
        for observe in tuple(self.observers):
            observe()


class AsyncFeed(_Feed):
    """The feed of an AsyncClient."""

    def __init__(self, client: AsyncClient) -> None:
        super().__init__()
        self._client = client
        self._tasks: list[asyncio.Task[None]] = []
        self._fetch: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Follow the service until closed."""
        # Not in the context of a request, whose deadline would be that of every call.
        context = contextvars.Context()
        for work in (self._follow(), self._look_after()):
            self._tasks.append(asyncio.create_task(work, context=context))

    async def close(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait(self, seconds: float) -> None:
        """Wait until it is known that the feed works, or can't; at most so long."""
        until = elapsed() + seconds
        while not self.is_decided and elapsed() < until:  # noqa: ASYNC110 - at the start only
            await asyncio.sleep(_SHORT)

    async def fetch_keys(self, seconds: float) -> None:
        """Fetch the keys unless they just were; wait for that at most so long."""
        if self._is_fetching() or self.knowledge.keys.may_fetch(elapsed()):
            await asyncio.wait({self._start_fetch()}, timeout=seconds)

    async def _follow(self) -> None:
        while True:
            wait = await self._follow_once()
            await asyncio.sleep(wait)

    async def _follow_once(self) -> float:
        """Follow one stream; return how many seconds to wait before the next."""
        following = self.following
        stream: Any = None
        failure: Exception | None = None
        try:
            stream = self._client.sessions.WatchRevocations(following.open(elapsed()))
            is_good = True
            while is_good:
                try:
                    async with asyncio.timeout(following.silent_at() - elapsed()):
                        response = await anext(stream)
                except TimeoutError:
                    self._client.channel.reconnect(stream.connections)
                    break
                is_good = self._receive(response)
        except StopAsyncIteration:
            failure = None
        except Exception as error:  # noqa: BLE001 - whatever it is, the next stream may be better
            failure = error
        finally:
            if stream is not None:
                stream.cancel()
        return self._end(failure)

    async def _look_after(self) -> None:
        while True:
            if self._is_fetch_due(elapsed()):
                self._start_fetch()
            self._observe()
            await asyncio.sleep(_TICK)

    def _is_fetching(self) -> bool:
        return self._fetch is not None and not self._fetch.done()

    def _start_fetch(self) -> asyncio.Task[None]:
        if self._fetch is None or self._fetch.done():
            self._begin_fetch()
            self._fetch = asyncio.create_task(self._fetch_once(), context=contextvars.Context())
        return self._fetch

    async def _fetch_once(self) -> None:
        try:
            self._install(await self._client.auth.GetJwks(GetJwksRequest()))
        except Exception as error:  # noqa: BLE001 - the keys stay as they are
            self._fetch_failed(error)


class Feed(_Feed):
    """The feed of a Client: in two threads, one of which waits for responses."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client
        self._closed = threading.Event()
        self._fetching = threading.Lock()
        self._stream: Any = None
        self._is_silent = False
        self._threads = [
            threading.Thread(target=work, name=f"authsvc-verifier-{name}", daemon=True)
            for name, work in (("stream", self._follow), ("keys", self._look_after))
        ]

    def start(self) -> None:
        """Follow the service until closed."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop following."""
        self._closed.set()
        self._cancel()
        for thread in self._threads:
            thread.join(_CLOSING)

    def wait(self, seconds: float) -> None:
        """Wait until it is known that the feed works, or can't; at most so long."""
        until = elapsed() + seconds
        while not self.is_decided and elapsed() < until:
            self._closed.wait(_SHORT)

    def fetch_keys(self, seconds: float) -> None:
        """Fetch the keys unless they just were; wait for that at most so long."""
        if not self._fetching.acquire(timeout=seconds):
            return
        try:
            if self.knowledge.keys.may_fetch(elapsed()):
                self._fetch_once(seconds)
        finally:
            self._fetching.release()

    def _follow(self) -> None:
        while not self._closed.wait(self._follow_once()):
            pass

    def _follow_once(self) -> float:
        """Follow one stream; return how many seconds to wait before the next."""
        failure: Exception | None = None
        try:
            self._is_silent = False
            request = self.following.open(elapsed())
            stream: Any = self._client.sessions.WatchRevocations(request)
            self._stream = stream
            if self._closed.is_set():
                self._cancel()
            for response in stream:
                if not self._receive(response):
                    break
            if self._is_silent:
                self._client.channel.reconnect(stream.connections)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next stream may be better
            failure = error
        self._cancel()
        self._stream = None
        return self._end(failure)

    def _look_after(self) -> None:
        while not self._closed.wait(_TICK):
            now = elapsed()
            if now >= self.following.silent_at() and self._stream is not None:
                self._is_silent = True
                self._cancel()
            if self._is_fetch_due(now) and self._fetching.acquire(blocking=False):
                try:
                    self._fetch_once(_FETCH)
                finally:
                    self._fetching.release()
            self._observe()

    def _cancel(self) -> None:
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def _fetch_once(self, seconds: float) -> None:
        self._begin_fetch()
        try:
            self._install(self._client.auth.GetJwks(GetJwksRequest(), timeout=seconds))
        except Exception as error:  # noqa: BLE001 - the keys stay as they are
            self._fetch_failed(error)
