"""A switchover without a crash: the old primary turns read-only and stays up."""

import asyncio
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import aiohttp
import asyncpg
import grpc
import pytest

from authsvc.config import Settings
from authsvc.core.lib.clock import elapsed
from authsvc.models.ids import SessionId
from authsvc.store import api_keys, sessions, signing_keys
from authsvc.v1.auth_service_pb2 import ValidateApiKeyRequest
from authsvc.v1.common_pb2 import Tokens
from authsvc.v1.session_service_pb2 import RevokeSessionRequest
from tests.support.databases import settings_for
from tests.support.service import Service, StartService
from tests.support.standby import Pair, primary_and_standby

_PATIENCE = 60.0
_NOT_ACTIVE = {"SESSION_REVOKED", "UNAVAILABLE"}


async def _ask(service: Service, tokens: Tokens, *, strict: bool) -> list[str]:
    """Return why the session and its access token are not active, "" if they are."""

    async def reason(answer: object) -> str:
        try:
            return str(await answer)  # type: ignore[misc] # either of the two below
        except grpc.aio.AioRpcError as error:
            return error.code().name

    return [
        await reason(service.judge_session(tokens.session_token, strict=strict)),
        await reason(service.judge_token(tokens.access_token, strict=strict)),
    ]


async def _until_active(service: Service, tokens: Tokens) -> None:
    async with asyncio.timeout(_PATIENCE):
        while await _ask(service, tokens, strict=True) != ["", ""]:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)


async def _revoke(service: Service, tokens: Tokens) -> float:
    """Revoke the session, as soon as the service has found the new primary; return when."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            with suppress(grpc.aio.AioRpcError):
                await service.sessions().RevokeSession(
                    RevokeSessionRequest(session_id=tokens.session_id)
                )
                return elapsed()
            await asyncio.sleep(0.01)


async def _readiness(http: aiohttp.ClientSession, service: Service, status: int) -> str:
    """Wait until /readyz has this status; return its text."""
    address = f"http://127.0.0.1:{service.app.http_port}/readyz"
    async with asyncio.timeout(_PATIENCE):
        while True:
            async with http.get(address) as response:
                if response.status == status:
                    return await response.text()
            await asyncio.sleep(0.02)


@pytest.mark.world
async def test_revoked_after_switchover_is_never_active_on_a_replica_that_stayed_behind(
    settings: Settings, start_service: StartService, tmp_path: Path
) -> None:
    async with primary_and_standby(tmp_path) as pair, aiohttp.ClientSession() as http:
        database = settings_for(pair.url, pool_min=2)
        both = settings.model_copy(update={"database": database})
        here, there = await start_service(both), await start_service(both)
        revoked, kept = await here.new_session(), await here.login()
        for tokens in (revoked, kept):
            await _until_active(there, tokens)
        await _standby_is_refused(pair)
        await _while_no_server_is_writable(http, there, pair)

        for tokens in (revoked, kept):
            await _until_active(there, tokens)
            assert await _ask(there, tokens, strict=False) == ["", ""]
        await pair.demote()
        await pair.promote()
        acknowledged = await _revoke(here, revoked)
        bound = settings.sessions.cache_staleness.total_seconds()
        async with asyncio.timeout(_PATIENCE):
            while True:
                assert set(await _ask(there, revoked, strict=True)) <= _NOT_ACTIVE
                begun = elapsed()
                answers = await _ask(there, revoked, strict=False)
                if begun > acknowledged + bound:
                    assert set(answers) <= _NOT_ACTIVE
                if answers == ["SESSION_REVOKED", "SESSION_REVOKED"]:
                    break
                await asyncio.sleep(0.005)
        await _until_active(there, kept)
        assert await _ask(there, revoked, strict=True) == ["SESSION_REVOKED"] * 2
        await _readiness(http, there, 200)
        assert there.app._parts.revocation_reader.is_fresh()


async def _standby_is_refused(pair: Pair) -> None:
    """No pooler that leads there gets an answer."""
    connection = await asyncpg.connect(pair.standby_dsn)
    for read in (
        sessions.find_by_token(connection, [b"unknown"]),
        sessions.find(connection, [SessionId(UUID(int=1))]),
        api_keys.find(connection, [b"unknown"]),
        signing_keys.list_all(connection),
    ):
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError, match="in recovery"):
            await read
    await connection.close()


async def _while_no_server_is_writable(
    http: aiohttp.ClientSession, service: Service, pair: Pair
) -> None:
    """A replica that no caller uses leaves the read-only server by itself, and says why."""
    await pair.demote()
    text = await _readiness(http, service, 503)
    assert "read-only" in text or "in recovery" in text
    answer = service.auth("edge").ValidateApiKey(ValidateApiKeyRequest(api_key="no key"))
    assert not (await answer).active, "what needs no database is still answered"
    await pair.demote(read_only=False)
    await _readiness(http, service, 200)
