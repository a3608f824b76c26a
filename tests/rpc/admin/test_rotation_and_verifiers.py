"""Rotation and revocation of signing keys, as seen by verifiers that cache the published keys."""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta

import aiohttp
import pytest_asyncio
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from authsvc.config import Settings
from authsvc.core.lib import base64url
from authsvc.models.calls import Call
from authsvc.v1 import admin_service_pb2 as pb
from authsvc.v1.common_pb2 import Tokens
from tests.support.clock import FakeClock
from tests.support.probe import with_changes
from tests.support.service import Service, StartService

LEAD = timedelta(minutes=2)
STEP = timedelta(seconds=5)
# Of each replica, a quarter of the lead.
POLL = timedelta(seconds=30)
MAX_AGE = timedelta(minutes=1)
CALL = Call("request-1", "system")


class CachingVerifier:
    """Verifies with the keys that it fetched, for the whole `max-age`, whatever it is shown.

    It doesn't fetch again for an unknown `kid`, as Envoy doesn't. Replicas are asked in turn.
    """

    def __init__(
        self, http: aiohttp.ClientSession, replicas: Sequence[Service], clock: FakeClock
    ) -> None:
        self._http = http
        self._replicas = itertools.cycle(replicas)
        self._clock = clock
        self._end: datetime | None = None

    async def accepts(self, token: str) -> bool:
        if self._end is None or self._clock.now() >= self._end:
            await self._fetch()
        try:
            jwt.decode(token, self._keys, ["ES256"])
        except (JoseError, ValueError):
            return False
        return True

    async def _fetch(self) -> None:
        url = f"http://127.0.0.1:{next(self._replicas).app.http_port}/.well-known/jwks.json"
        async with self._http.get(url) as answer:
            self._keys = KeySet.import_key_set(json.loads(await answer.text()))
            match = re.fullmatch(r"public, max-age=(\d+)", answer.headers["Cache-Control"])
        assert match is not None
        age = timedelta(seconds=int(match[1]))
        assert age <= MAX_AGE
        self._end = self._clock.now() + age


class Fleet:
    """Two replicas in use, and a dozen verifiers that fetch the keys at different times."""

    def __init__(
        self, replicas: Sequence[Service], http: aiohttp.ClientSession, clock: FakeClock
    ) -> None:
        self._replicas = replicas
        self._clock = clock
        self._steps = 0
        self._sessions: Sequence[Tokens] = ()
        order = (replicas, tuple(reversed(replicas)))
        self._verifiers = [CachingVerifier(http, order[at % 2], clock) for at in range(12)]
        self.admin = replicas[0].admin()
        self.refused = 0
        self.signers = list[str]()

    async def open(self) -> None:
        await self._replicas[0].register()
        self._sessions = [await self._replicas[at % 2].login() for at in range(4)]
        for verifier in self._verifiers:
            await self.step()
            assert await verifier.accepts(self._sessions[0].access_token)

    async def read_keys(self) -> None:
        """Let every replica know what has happened to the keys."""
        for replica in self._replicas:
            await replica.app._parts.use.signing_keys.refresh()

    async def step(self) -> None:
        """Let five seconds pass: replicas poll when it is time, and all tokens are refreshed."""
        self._clock.advance(STEP)
        self._steps += 1
        for at, replica in enumerate(self._replicas):
            # Half of their interval apart.
            if (self._steps * STEP + at * POLL / 2) % POLL == timedelta():
                await replica.app._parts.use.signing_keys.maintain(CALL)
        self._sessions = await asyncio.gather(
            *(
                self._replicas[at % 2].refresh(tokens.refresh_token)
                for at, tokens in enumerate(self._sessions)
            )
        )

    async def check(self) -> None:
        """Show each token to every verifier, and to the other replica."""
        for at, tokens in enumerate(self._sessions):
            token = tokens.access_token
            key_id = _key_id(token)
            if key_id not in self.signers:
                self.signers.append(key_id)
            assert await self._replicas[1 - at % 2].judge_token(token) == ""
            for verifier in self._verifiers:
                self.refused += not await verifier.accepts(token)

    async def run(self, duration: timedelta) -> None:
        for _ in range(duration // STEP):
            await self.step()
            await self.check()

    async def rotate(self, *, now: bool) -> pb.RotateSigningKeyResponse:
        return await self.admin.RotateSigningKey(pb.RotateSigningKeyRequest(now=now))


@pytest_asyncio.fixture
async def fleet(
    start_service: StartService, live_settings: Settings, clock: FakeClock
) -> AsyncIterator[Fleet]:
    settings = with_changes(live_settings, "tokens", key_publish_lead=LEAD)
    replicas = [await start_service(settings, clock) for _ in range(2)]
    async with aiohttp.ClientSession() as http:
        fleet = Fleet(replicas, http, clock)
        await fleet.open()
        yield fleet


async def test_rotations_never_outrun_verifiers_that_cache_the_keys(fleet: Fleet) -> None:
    for _ in range(2):
        answer = await fleet.rotate(now=False)
        assert answer.HasField("next_key")
        await fleet.run(LEAD + POLL + STEP)
        assert fleet.signers[-1] == answer.next_key.key_id
    assert len(fleet.signers) == 3
    assert fleet.refused == 0


async def test_rotations_without_the_lead_outrun_verifiers(fleet: Fleet) -> None:
    for _ in range(2):
        await fleet.rotate(now=True)
        await fleet.run(STEP)
    await fleet.run(MAX_AGE + POLL)
    # Whoever has cached the keys lacks the second one, until it asks again.
    assert len(fleet.signers) == 3
    assert fleet.refused > 0
    refused = fleet.refused
    await fleet.run(MAX_AGE)
    assert fleet.refused == refused


async def test_key_that_replaces_a_revoked_one_is_known_to_verifiers(fleet: Fleet) -> None:
    await fleet.run(LEAD)
    revoked = fleet.signers[-1]
    answer = await fleet.admin.RevokeSigningKey(pb.RevokeSigningKeyRequest(key_id=revoked))
    await fleet.read_keys()
    await fleet.run(MAX_AGE + POLL)
    assert fleet.signers == [revoked, answer.active_key.key_id]
    assert fleet.refused == 0


async def test_revoked_key_is_refused_and_unpublished_on_every_replica(
    start_service: StartService, live_settings: Settings
) -> None:
    first, second = [await start_service(live_settings) for _ in range(2)]
    token = (await first.new_session()).access_token
    assert await second.judge_token(token) == ""
    revoked = _key_id(token)
    await first.admin().RevokeSigningKey(pb.RevokeSigningKeyRequest(key_id=revoked))
    assert await first.judge_token(token) == "SIGNATURE_INVALID"
    # The other replica hears of it by itself.
    async with asyncio.timeout(30):
        while await second.judge_token(token) == "":  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(0.01)
    assert await second.judge_token(token) == "SIGNATURE_INVALID"
    async with aiohttp.ClientSession() as http:
        for replica in (first, second):
            url = f"http://127.0.0.1:{replica.app.http_port}/.well-known/jwks.json"
            async with http.get(url) as answer:
                assert revoked not in await answer.text()


def _key_id(token: str) -> str:
    return str(json.loads(base64url.decode(token.partition(".")[0]))["kid"])
