"""Owns the measurement of how late a revocation is known: by another replica, and by a verifier.

Sessions are revoked on one replica and probed a hundred times a second on another one. A probe
counts as late by the time from the acknowledgement of the revocation to the beginning of the probe.
Every second revocation follows shortly after another one, as streams gather what comes then.
"""

import asyncio
import math
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from authsvc.client import AsyncClient, AsyncVerifier, NotDecidable, TokenRejected
from authsvc.v1 import auth_service_pb2 as auth
from authsvc.v1 import common_pb2
from authsvc.v1 import session_service_pb2 as sessions
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.session_service_pb2_grpc import SessionServiceStub
from tests.bench.processes import Target, replica

if TYPE_CHECKING:
    from authsvc.v1.auth_service_pb2_grpc import AuthServiceAsyncStub
    from authsvc.v1.session_service_pb2_grpc import SessionServiceAsyncStub

BOUND = 1.0
_INTERVAL = 0.01
# Seconds for which a session is probed at this rate after its end, and after which it is once more.
_CLOSELY = 0.25
_AGAIN = 1.0
_GATHERED = 0.1
# Seconds within which a new session must be accepted.
_PATIENCE = 30.0
_METHODS = ("hwk",)
KINDS = ("strict", "min_cursor", "min_cursor, streamed", "cached", "streamed")


@dataclass
class _Victim:
    """A session that is ended: when that was acknowledged, and when it was last accepted."""

    tokens: common_pb2.Tokens
    cursor: str = ""
    acknowledged: float = math.inf
    accepted: dict[str, float] = field(default_factory=dict)


@dataclass
class Lateness:
    """What was measured: the seconds of each revocation, by kind; 0 if none was accepted late."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    probes: Counter[str] = field(default_factory=Counter)
    undecided: int = 0
    failed: int = 0
    load: float = 0.0

    def note(self, victim: _Victim) -> None:
        """Take in what became of a session."""
        for kind, found in self.seconds.items():
            found.append(max(0.0, victim.accepted.get(kind, 0.0) - victim.acknowledged))

    def quantile_ms(self, kind: str, share: float) -> float:
        """Return the milliseconds within which this share of the revocations was known."""
        ordered = sorted(self.seconds[kind])
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] * 1_000


async def measure_bound(
    service: Target, folder: Path, user_id: str, issuer: str, seconds: float
) -> Lateness:
    """Revoke for so many seconds on the service; return how late another replica knew."""
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(replica(folder))
        issuing = await stack.enter_async_context(service.channel("issuer"))
        edge = await stack.enter_async_context(other.channel("edge"))
        client = await stack.enter_async_context(
            AsyncClient(
                f"127.0.0.1:{other.port}",
                ca=other.certs / "ca.crt",
                cert=other.certs / "clients" / "app.crt",
                key=other.certs / "clients" / "app.key",
            )
        )
        verifier = await stack.enter_async_context(
            AsyncVerifier(client, issuer=issuer, audience="authsvc", max_staleness=BOUND)
        )
        probe = _Probe(SessionServiceStub(issuing), edge=edge, verifier=verifier, user_id=user_id)
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < until:
                victim = await probe.end_one()
                group.create_task(probe.look_again(victim))
        probe.found.load = os.getloadavg()[1]
        return probe.found


class _Probe:
    """Ends sessions on one replica, and tries them on another one."""

    def __init__(
        self,
        issuing: "SessionServiceAsyncStub",
        *,
        edge: grpc.aio.Channel,
        verifier: AsyncVerifier,
        user_id: str,
    ) -> None:
        self._issuing = issuing
        self._auth: AuthServiceAsyncStub = AuthServiceStub(edge)
        self._sessions: SessionServiceAsyncStub = SessionServiceStub(edge)
        self._verifier = verifier
        self._user_id = user_id
        self.found = Lateness()

    async def end_one(self) -> _Victim:
        """End a session and probe it closely, from before its end on."""
        first = await self._open() if random.random() < 0.5 else None
        victim = _Victim(await self._open())
        await self._become_known(victim)
        if first is not None:
            await self._revoke(first.session_id)
        probing = asyncio.create_task(self._probe_closely(victim))
        await asyncio.sleep(random.uniform(0, _GATHERED))
        cursor = await self._revoke(victim.tokens.session_id)
        victim.acknowledged, victim.cursor = time.monotonic(), cursor
        await probing
        return victim

    async def look_again(self, victim: _Victim) -> None:
        """Try a session once more when all must know of its end, and note what became of it."""
        await asyncio.sleep(victim.acknowledged + _AGAIN - time.monotonic())
        for number in range(2):
            await self._try(victim, number)
        self.found.note(victim)

    async def _probe_closely(self, victim: _Victim) -> None:
        async with asyncio.TaskGroup() as group:
            due, number = time.monotonic(), 0
            while time.monotonic() < victim.acknowledged + _CLOSELY:
                group.create_task(self._try(victim, number))
                number += 1
                due = max(due + _INTERVAL, time.monotonic())
                await asyncio.sleep(due - time.monotonic())

    async def _try(self, victim: _Victim, number: int) -> None:
        """Try a session in every way: in turn by its access token and by its session token."""
        begun = time.monotonic()
        cursor = victim.cursor
        if self._says(victim.tokens.access_token) == "":
            self._accept(victim, "streamed", begun)
        if cursor and self._says(victim.tokens.access_token, min_cursor=cursor) == "":
            self._accept(victim, "min_cursor, streamed", begun)
        self.found.probes["streamed"] += 1
        ask = self._ask_token if number % 2 else self._ask_session
        calls = [self._call(victim, "cached", ask), self._call(victim, "strict", ask, strict=True)]
        if cursor:
            self.found.probes["min_cursor, streamed"] += 1
            calls.append(self._call(victim, "min_cursor", ask, min_cursor=cursor))
        await asyncio.gather(*calls)

    async def _call(
        self,
        victim: _Victim,
        kind: str,
        ask: Callable[..., Awaitable[bool]],
        **options: Any,
    ) -> None:
        begun = time.monotonic()
        self.found.probes[kind] += 1
        try:
            accepted = await ask(victim.tokens, **options)
        except Exception:  # noqa: BLE001 - whatever failed was not accepted; it is counted
            self.found.failed += 1
            return
        if accepted:
            self._accept(victim, kind, begun)

    async def _ask_token(self, tokens: common_pb2.Tokens, **options: Any) -> bool:
        request = auth.ValidateTokenRequest(access_token=tokens.access_token, **options)
        return (await self._auth.ValidateToken(request)).active

    async def _ask_session(self, tokens: common_pb2.Tokens, **options: Any) -> bool:
        request = sessions.ValidateSessionRequest(session_token=tokens.session_token, **options)
        return (await self._sessions.ValidateSession(request)).active

    def _accept(self, victim: _Victim, kind: str, begun: float) -> None:
        victim.accepted[kind] = max(victim.accepted.get(kind, 0.0), begun)

    def _says(self, token: str, **options: Any) -> str:
        try:
            self._verifier.verify(token, **options)
        except TokenRejected as refused:
            return refused.reason
        except NotDecidable as open_question:
            self.found.undecided += not options
            return open_question.reason
        return ""

    async def _become_known(self, victim: _Victim) -> None:
        """Have the session accepted in every way, so that it is in all caches."""
        tokens = victim.tokens
        async with asyncio.timeout(_PATIENCE):
            # Under load the verifier may not know enough for a while.
            while (  # noqa: ASYNC110 - no event tells
                self._says(tokens.access_token)
                or not await self._ask_token(tokens)
                or not await self._ask_session(tokens)
            ):
                await asyncio.sleep(_INTERVAL)

    async def _open(self) -> common_pb2.Tokens:
        request = sessions.CreateSessionRequest(
            user_id=self._user_id, authentication_methods=_METHODS
        )
        return (await self._issuing.CreateSession(request)).tokens

    async def _revoke(self, session_id: str) -> str:
        request = sessions.RevokeSessionRequest(session_id=session_id)
        return (await self._issuing.RevokeSession(request)).revocation_cursor
