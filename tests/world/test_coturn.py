"""TURN credentials at a real coturn: good ones relay; expired, forged and retired ones don't."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration

from authsvc.config import Settings, TurnSettings
from authsvc.v1 import session_service_pb2 as pb
from tests.support.clock import FakeClock
from tests.support.coturn import Coturn
from tests.support.service import Service, StartService
from tests.support.turn import TurnClient, TurnRefused

pytestmark = pytest.mark.world

_OLD, _NEW = "old-" + "a" * 40, "new-" + "b" * 40
_UNAUTHORIZED = 401


def _with_turn(settings: Settings, *secrets: str) -> Settings:
    values = {"uris": ["turn:127.0.0.1:3478?transport=udp"], "secrets": secrets}
    return settings.model_copy(update={"turn": TurnSettings.model_validate(values)})


async def _create(service: Service, session_token: str, seconds: int) -> tuple[str, str]:
    request = pb.CreateTurnCredentialsRequest(
        session_token=session_token, ttl=Duration(seconds=seconds)
    )
    made = await service.sessions().CreateTurnCredentials(request)
    return made.username, made.password


async def _relays(server: Coturn, username: str, password: str) -> bool:
    def relay() -> bool:
        with TurnClient(server.port, username, password) as client:
            try:
                return client.echo(b"hello") == b"hello"
            except TurnRefused as refused:
                if refused.code != _UNAUTHORIZED:
                    raise
                return False

    return await asyncio.to_thread(relay)


async def test_good_credentials_relay_and_forged_ones_do_not(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(_with_turn(live_settings, _NEW))
    tokens = await service.new_session()
    username, password = await _create(service, tokens.session_token, 60)
    expiry, _, user_id = username.partition(":")
    assert user_id == tokens.user_id
    with Coturn(_NEW) as server:
        assert await _relays(server, username, password)
        assert not await _relays(server, username, password[::-1])
        assert not await _relays(server, f"{int(expiry) + 60}:{user_id}", password)
        assert not await _relays(server, f"{expiry}:{user_id[::-1]}", password)
        assert not await _relays(server, username, "")


async def test_expired_credentials_do_not_relay(
    start_service: StartService, live_settings: Settings
) -> None:
    clock = FakeClock(datetime.now(UTC) - timedelta(hours=1))
    service = await start_service(_with_turn(live_settings, _NEW), clock)
    tokens = await service.new_session()
    over = await _create(service, tokens.session_token, 3_000)
    clock.advance(timedelta(hours=1))
    good = await _create(service, (await service.login()).session_token, 600)
    with Coturn(_NEW) as server:
        assert not await _relays(server, *over)
        assert await _relays(server, *good)


async def test_secret_is_changed_without_refusing_a_client(
    start_service: StartService, live_settings: Settings
) -> None:
    before = await start_service(_with_turn(live_settings, _OLD))
    session = (await before.new_session()).session_token
    old = await _create(before, session, 60)
    with Coturn(_OLD) as server:
        assert await _relays(server, *old)
    # First the servers learn the new secret, then the service uses it.
    with Coturn(_OLD, _NEW) as server:
        assert await _relays(server, *old)
        after = await start_service(_with_turn(live_settings, _NEW, _OLD))
        new = await _create(after, session, 60)
        assert await _relays(server, *new)
        assert await _relays(server, *old)
    # At last the servers forget the old one.
    with Coturn(_NEW) as server:
        assert await _relays(server, *new)
        assert not await _relays(server, *old)


async def test_hash_other_than_sha1_is_refused_by_coturn(
    start_service: StartService, live_settings: Settings
) -> None:
    settings = _with_turn(live_settings, _NEW)
    turn = settings.turn.model_copy(update={"algorithm": "sha256"})
    service = await start_service(settings.model_copy(update={"turn": turn}))
    made = await _create(service, (await service.new_session()).session_token, 60)
    with Coturn(_NEW) as server:
        assert not await _relays(server, *made)
