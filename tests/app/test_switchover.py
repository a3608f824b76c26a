"""A switchover without a crash: the old primary turns read-only and stays up."""

import asyncio
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import aiohttp
import asyncpg
import grpc
import pytest

from authsvc.app.build import Parts, open_parts
from authsvc.config import Settings
from authsvc.core.lib.clock import elapsed
from authsvc.core.sessions.validation import SessionCheck
from authsvc.core.tokens.validation import TokenCheck
from authsvc.errors import StoreUnavailable
from authsvc.models.ids import SessionId
from authsvc.store import api_keys, sessions, signing_keys
from authsvc.v1.auth_service_pb2 import ValidateApiKeyRequest
from authsvc.v1.common_pb2 import Tokens
from authsvc.v1.session_service_pb2 import RevokeSessionRequest
from tests.support.databases import settings_for
from tests.support.jobs import running
from tests.support.service import Service, StartService
from tests.support.standby import Pair, primary_and_standby

_PATIENCE = 60.0
_ACTIVE, _REVOKED, _NO_ANSWER = "active", "SESSION_REVOKED", "no answer"


async def _ask(replica: Parts, tokens: Tokens, *, strict: bool) -> set[str]:
    """Return what is said of the session, and of its access token."""
    session = SessionCheck(tokens.session_token, strict=strict)
    token = TokenCheck(tokens.access_token, strict=strict)
    answers = set()
    for answer in (
        replica.use.session_validation.validate(session),
        replica.use.token_validation.validate(token),
    ):
        try:
            result = await answer
        except StoreUnavailable:
            answers.add(_NO_ANSWER)
        else:
            answers.add(str(result.reason or _ACTIVE))
    return answers


async def _until_active(replica: Parts, tokens: Tokens) -> None:
    async with asyncio.timeout(_PATIENCE):
        while await _ask(replica, tokens, strict=True) != {_ACTIVE}:  # noqa: ASYNC110 - no event
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
        await _standby_is_refused(pair)
        database = settings_for(pair.url, pool_min=2)
        both = settings.model_copy(update={"database": database})
        here = await start_service(both)
        # It writes nothing, and nobody asks for its health, so only its reads can tell it.
        async with open_parts(both) as there:
            await there.use.signing_keys.load()
            async with running(there.revocation_reader, there.doorbell):
                await _switch_over(pair, http, here, there)


async def _switch_over(
    pair: Pair, http: aiohttp.ClientSession, here: Service, there: Parts
) -> None:
    revoked, kept = await here.new_session(), await here.login()
    for tokens in (revoked, kept):
        await _until_active(there, tokens)
    await _while_no_server_is_writable(pair, http, here)

    for tokens in (revoked, kept):
        await _until_active(there, tokens)
        assert await _ask(there, tokens, strict=False) == {_ACTIVE}
    await pair.demote()
    await pair.promote()
    acknowledged = await _revoke(here, revoked)
    bound = here.settings.sessions.cache_staleness.total_seconds()
    async with asyncio.timeout(_PATIENCE):
        while True:
            assert _ACTIVE not in await _ask(there, revoked, strict=True)
            begun = elapsed()
            answers = await _ask(there, revoked, strict=False)
            assert _ACTIVE not in answers or begun <= acknowledged + bound
            if answers == {_REVOKED}:
                break
            await asyncio.sleep(0.005)
    await _until_active(there, kept)
    assert await _ask(there, revoked, strict=True) == {_REVOKED}
    await _readiness(http, here, 200)
    assert there.revocation_reader.is_fresh()


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
    pair: Pair, http: aiohttp.ClientSession, service: Service
) -> None:
    """A replica leaves the read-only server by itself, and says why it is not ready."""
    await pair.demote()
    text = await _readiness(http, service, 503)
    assert "read-only" in text or "in recovery" in text
    answer = service.auth("edge").ValidateApiKey(ValidateApiKeyRequest(api_key="no key"))
    assert not (await answer).active, "what needs no database is still answered"
    await pair.demote(read_only=False)
    await _readiness(http, service, 200)
