"""Owns the verifiers: `AsyncVerifier` for asyncio, and its twin `Verifier` for threads."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

from authsvc.client import asking
from authsvc.client.connection import AsyncClient, Client
from authsvc.client.errors import AuthsvcError, NotDecidable
from authsvc.client.feeds import AsyncFeed, Feed
from authsvc.client.freshness import Freshness
from authsvc.client.identity import Identity
from authsvc.client.knowledge import Knowledge
from authsvc.client.verification import Expectations, KeyUnknown, Verification
from authsvc.client.when_degraded import AcceptStale, Ask, WhenDegraded
from authsvc.v1.auth_service_pb2 import ValidateTokenResponse

_log = logging.getLogger("authsvc.client")
# Seconds to wait for keys because of an unknown id.
_KEY_WAIT = 1.0
_ASK = Ask()

_AnyClient = TypeVar("_AnyClient")
_AnyFeed = TypeVar("_AnyFeed", bound=AsyncFeed | Feed)


class _Presented(NamedTuple):
    """A token and what it is held to."""

    token: str
    audience: str
    scopes: Iterable[str]
    min_cursor: str
    certificate: bytes | None

    def __repr__(self) -> str:
        """Return it without the token."""
        return f"_Presented(audience={self.audience!r})"


class _Feeds(Generic[_AnyClient, _AnyFeed]):
    """The feeds in use: one for each client, however many verifiers it has."""

    def __init__(self, new: Callable[[_AnyClient], _AnyFeed]) -> None:
        self._new = new
        self._used: dict[_AnyClient, tuple[_AnyFeed, int]] = {}
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget)

    def acquire(self, client: _AnyClient) -> _AnyFeed:
        """Return the feed of a client, started if this is its first use."""
        with self._lock:
            used = self._used.get(client)
            if used is None:
                feed, users = self._new(client), 0
                feed.start()
            else:
                feed, users = used
            self._used[client] = (feed, users + 1)
        return feed

    def release(self, client: _AnyClient) -> bool:
        """End one use of a client's feed; return whether it was the last."""
        with self._lock:
            if client not in self._used:
                return False
            feed, users = self._used.pop(client)
            if users > 1:
                self._used[client] = (feed, users - 1)
            return users == 1

    def _forget(self) -> None:
        # Another thread may have held the lock when the process was forked.
        self._used, self._lock = {}, threading.Lock()


class _Verifier:
    """What both kinds have in common: all that needs no call."""

    def __init__(
        self,
        expected: Expectations,
        cache_size: int,
        on_degraded: Callable[[Freshness], None] | None,
    ) -> None:
        self._expected = expected
        self._on_degraded = on_degraded
        self._verification = Verification(expected, Knowledge(), cache_size)
        self._status = "unusable"

    @property
    def state(self) -> Freshness:
        """How much the verifier knows now."""
        return self._verification.state

    def verify(
        self,
        token: str,
        *,
        audience: str | None = None,
        scopes: Iterable[str] = (),
        min_cursor: str = "",
        certificate: bytes | None = None,
    ) -> Identity:
        """Return the identity that a token stands for, from memory; callable in any thread.

        Args:
            token: The access token.
            audience: The audience that it must be for, if not the verifier's.
            scopes: The scopes that it must have, all of them.
            min_cursor: A `revocation_cursor`: what it names must be taken into account.
            certificate: The client certificate that the token came with, in DER form. A token that
                is bound to a certificate is accepted only with that one.

        Raises:
            TokenRejected: The token must not be accepted.
            NotDecidable: The verifier does not know enough; `authenticate` knows what to do then.
        """
        if scopes and isinstance(scopes, str):
            raise TypeError("scopes must be a collection of texts, not one text")
        expected = self._expected
        return self._verification.judge(
            token,
            audience or expected.audience,
            scopes,
            min_cursor,
            certificate,
            expected.max_staleness,
        )

    def metrics(self) -> Mapping[str, float]:
        """Return counters since the start, and the state, as numbers by name."""
        return self._verification.metrics()

    def _attach(self, feed: AsyncFeed | Feed) -> None:
        self._verification.knowledge = feed.knowledge
        self._verification.on_unknown_key = feed.want_keys
        feed.observers.append(self._observe)

    def _detach(self, feed: AsyncFeed | Feed) -> None:
        feed.observers.remove(self._observe)
        self._verification.knowledge = Knowledge()

    def _verify(self, presented: _Presented) -> Identity:
        return self._verification.judge(*presented, self._expected.max_staleness)

    def _accept_stale(self, presented: _Presented, seconds: float) -> Identity:
        identity = self._verification.judge(*presented, seconds)
        self._verification.counts["accepted_stale"] += 1
        return identity

    def _begin_question(self, rule: WhenDegraded, open_question: NotDecidable) -> None:
        """Take note that the service is asked; raise `open_question` if it must not be."""
        # In the child of a fork the connection is dead as well.
        if not isinstance(rule, Ask) or self._verification.knowledge.is_lost:
            raise open_question
        self._verification.counts["asked"] += 1

    def _read_answer(self, response: ValidateTokenResponse, token: str) -> Identity:
        key_id = self._verification.key_id_of(token)
        return asking.answer(response, self._expected.issuer, key_id)

    def _present(
        self,
        token: str,
        audience: str | None,
        scopes: Iterable[str],
        min_cursor: str,
        certificate: bytes | None,
    ) -> _Presented:
        if scopes and isinstance(scopes, str):
            raise TypeError("scopes must be a collection of texts, not one text")
        return _Presented(
            token, audience or self._expected.audience, scopes, min_cursor, certificate
        )

    def _observe(self) -> None:
        """Call the hook if the status has changed."""
        state = self.state
        if state.status == self._status:
            return
        self._status = state.status
        self._verification.counts[f"became_{state.status}"] += 1
        if self._on_degraded is not None:
            try:
                self._on_degraded(state)
            except Exception:  # noqa: BLE001 - logged; the verifier goes on
                _log.exception("on_degraded failed")


class AsyncVerifier(_Verifier):
    """Verifies access tokens for asyncio, by itself: with the keys and revocations of the service.

    Verifiers of one client share one stream and one memory. Start it after a fork, not before.

    Args:
        client: The connection to the service; its certificate needs the role `app` or `edge`.
        issuer: `tokens.issuer` of the service: the `iss` of its tokens.
        audience: Whom tokens have to be for: one of their `aud`.
        max_staleness: The seconds within which a revocation may be unknown. Beyond that, tokens are
            NotDecidable.
        clock_skew: The seconds by which tokens may be from the future.
        cache_size: How many verified tokens are cached at least; at most twice as many, which take
            about 3 KB each.
        on_degraded: Called with the new state whenever its status changes, in the event loop. It
            should return at once; what it raises is logged.
        clock: The time in seconds since 1970.
    """

    def __init__(
        self,
        client: AsyncClient,
        *,
        issuer: str,
        audience: str,
        max_staleness: float = 1.0,
        clock_skew: float = 5.0,
        cache_size: int = 10_000,
        on_degraded: Callable[[Freshness], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(
            Expectations(
                issuer=issuer,
                audience=audience,
                max_staleness=max_staleness,
                clock_skew=clock_skew,
                clock=clock,
            ),
            cache_size,
            on_degraded,
        )
        self._client = client
        self._feed: AsyncFeed | None = None

    async def start(self, *, wait: float = 5.0) -> None:
        """Follow what is revoked; return when all of it is known, or after `wait` seconds.

        If the service does not answer by then, the verifier goes on trying, and every token is
        NotDecidable meanwhile.

        Raises:
            AuthsvcError: The service does not let this client follow, is too old, or has a
                certificate that is not accepted.
        """
        if self._feed is None:
            self._feed = feed = _async_feeds.acquire(self._client)
            self._attach(feed)
            await feed.wait(wait)
            self._observe()
            if feed.failure is not None:
                failure = feed.failure
                await self.close()
                raise failure

    async def close(self) -> None:
        """Stop; every token is NotDecidable from now on."""
        feed, self._feed = self._feed, None
        if feed is not None:
            self._detach(feed)
            if _async_feeds.release(self._client):
                await feed.close()

    async def authenticate(
        self,
        token: str,
        *,
        audience: str | None = None,
        scopes: Iterable[str] = (),
        min_cursor: str = "",
        certificate: bytes | None = None,
        when_degraded: WhenDegraded = _ASK,
    ) -> Identity:
        """Verify a token, and if that is not possible, do what `when_degraded` says.

        The other arguments are those of `verify`. A token of an unknown key waits for the keys, up
        to a second.

        Raises:
            TokenRejected: The token must not be accepted.
            NotDecidable: Neither the verifier nor the service could tell. If the service was asked,
                the cause is its AuthsvcError.
        """
        presented = self._present(token, audience, scopes, min_cursor, certificate)
        try:
            return self._verify(presented)
        except KeyUnknown:
            if self._feed is not None:
                await self._feed.fetch_keys(_KEY_WAIT)
        except NotDecidable as error:
            return await self._resolve(presented, when_degraded, error)
        try:
            return self._verify(presented)
        except KeyUnknown:
            # Not asked: made-up key ids must not become calls.
            raise
        except NotDecidable as error:
            return await self._resolve(presented, when_degraded, error)

    async def _resolve(
        self, presented: _Presented, rule: WhenDegraded, open_question: NotDecidable
    ) -> Identity:
        if isinstance(rule, AcceptStale):
            return self._accept_stale(presented, rule.seconds)
        self._begin_question(rule, open_question)
        try:
            response = await self._client.auth.ValidateToken(asking.question(*presented))
        except AuthsvcError as error:
            raise open_question from error
        return self._read_answer(response, presented.token)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class Verifier(_Verifier):
    """Verifies access tokens for threads: the twin of AsyncVerifier, whose parameters it has.

    Any number of threads may use it at once. `on_degraded` is called in a thread of its own.
    """

    def __init__(
        self,
        client: Client,
        *,
        issuer: str,
        audience: str,
        max_staleness: float = 1.0,
        clock_skew: float = 5.0,
        cache_size: int = 10_000,
        on_degraded: Callable[[Freshness], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(
            Expectations(
                issuer=issuer,
                audience=audience,
                max_staleness=max_staleness,
                clock_skew=clock_skew,
                clock=clock,
            ),
            cache_size,
            on_degraded,
        )
        self._client = client
        self._feed: Feed | None = None

    def start(self, *, wait: float = 5.0) -> None:
        """Follow what is revoked; return when all of it is known, or after `wait` seconds.

        If the service does not answer by then, the verifier goes on trying, and every token is
        NotDecidable meanwhile.

        Raises:
            AuthsvcError: The service does not let this client follow, is too old, or has a
                certificate that is not accepted.
        """
        if self._feed is None:
            self._feed = feed = _feeds.acquire(self._client)
            self._attach(feed)
            feed.wait(wait)
            if feed.failure is not None:
                failure = feed.failure
                self.close()
                raise failure

    def close(self) -> None:
        """Stop; every token is NotDecidable from now on."""
        feed, self._feed = self._feed, None
        if feed is not None:
            self._detach(feed)
            if _feeds.release(self._client):
                feed.close()

    def authenticate(
        self,
        token: str,
        *,
        audience: str | None = None,
        scopes: Iterable[str] = (),
        min_cursor: str = "",
        certificate: bytes | None = None,
        when_degraded: WhenDegraded = _ASK,
    ) -> Identity:
        """Verify a token, and if that is not possible, do what `when_degraded` says.

        The other arguments are those of `verify`. A token of an unknown key waits for the keys, up
        to a second.

        Raises:
            TokenRejected: The token must not be accepted.
            NotDecidable: Neither the verifier nor the service could tell. If the service was asked,
                the cause is its AuthsvcError.
        """
        presented = self._present(token, audience, scopes, min_cursor, certificate)
        try:
            return self._verify(presented)
        except KeyUnknown:
            if self._feed is not None:
                self._feed.fetch_keys(_KEY_WAIT)
        except NotDecidable as error:
            return self._resolve(presented, when_degraded, error)
        try:
            return self._verify(presented)
        except KeyUnknown:
            # Not asked: made-up key ids must not become calls.
            raise
        except NotDecidable as error:
            return self._resolve(presented, when_degraded, error)

    def _resolve(
        self, presented: _Presented, rule: WhenDegraded, open_question: NotDecidable
    ) -> Identity:
        if isinstance(rule, AcceptStale):
            return self._accept_stale(presented, rule.seconds)
        self._begin_question(rule, open_question)
        try:
            response = self._client.auth.ValidateToken(asking.question(*presented))
        except AuthsvcError as error:
            raise open_question from error
        return self._read_answer(response, presented.token)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


_async_feeds: _Feeds[AsyncClient, AsyncFeed] = _Feeds(AsyncFeed)
_feeds: _Feeds[Client, Feed] = _Feeds(Feed)
