"""min_cursor: whoever shows what ended something gets no answer that does not know of it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
import pytest_asyncio

from authsvc.config import Settings
from authsvc.core.lib import base64url
from authsvc.core.lib.log_follower import LogFollower
from authsvc.store import revocations
from authsvc.v1 import account_service_pb2 as account_pb
from authsvc.v1 import admin_service_pb2 as admin_pb
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1 import session_service_pb2 as session_pb
from authsvc.v1.common_pb2 import Tokens
from tests.support.passkeys import bearer
from tests.support.probe import with_changes
from tests.support.service import Service, StartService, fields_of

_AT_ONCE = 50
_HOUR = timedelta(hours=1)


class Hold:
    """Holds the readers of the revocation log back, without their noticing that they are late."""

    def __init__(self) -> None:
        self.may_read = asyncio.Event()
        self.may_read.set()


@pytest_asyncio.fixture
async def hold(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hold]:
    hold = Hold()
    read = LogFollower._read

    async def read_when_allowed(follower: LogFollower[Any], *arguments: Any) -> bool:
        if follower._source is revocations.LOG:
            await hold.may_read.wait()
        return await read(follower, *arguments)

    monkeypatch.setattr(LogFollower, "_read", read_when_allowed)
    yield hold
    hold.may_read.set()


@pytest_asyncio.fixture
async def replicas(
    start_service: StartService, live_settings: Settings, hold: Hold
) -> tuple[Service, Service]:
    """Two replicas that use their caches for an hour without reading the log."""
    settings = with_changes(live_settings, "sessions", cache_staleness=_HOUR)
    return await start_service(settings), await start_service(settings)


async def _key(service: Service, tokens: Tokens) -> account_pb.CreateApiKeyResponse:
    request = account_pb.CreateApiKeyRequest(name="ci")
    return await service.account().CreateApiKey(request, metadata=bearer(tokens))


class Asked:
    """What is asked of a replica about a session, its token and a key of its user."""

    def __init__(self, tokens: Tokens, key: str) -> None:
        self._tokens = tokens
        self._key = key

    async def accepts(self, replica: Service, cursor: str = "") -> set[str]:
        """Return which of the questions the replica answers with "active"."""
        auth, sessions = replica.auth("edge"), replica.sessions("edge")
        token, secret = self._tokens.access_token, self._tokens.session_token
        check = session_pb.ValidateSessionRequest(session_token=secret, min_cursor=cursor)
        batch = await auth.BatchValidateTokens(
            auth_pb.BatchValidateTokensRequest(access_tokens=[token], min_cursor=cursor)
        )
        checks = await sessions.BatchValidateSessions(
            session_pb.BatchValidateSessionsRequest(checks=[check])
        )
        answers: dict[str, Any] = {
            "token": await auth.ValidateToken(
                auth_pb.ValidateTokenRequest(access_token=token, min_cursor=cursor)
            ),
            "tokens": batch.results[0],
            "session": await sessions.ValidateSession(check),
            "sessions": checks.results[0],
            "key": await auth.ValidateApiKey(
                auth_pb.ValidateApiKeyRequest(api_key=self._key, min_cursor=cursor)
            ),
        }
        return {name for name, answer in answers.items() if answer.active}


_ALL = {"token", "tokens", "session", "sessions", "key"}


async def test_no_replica_accepts_what_a_shown_cursor_ended(
    replicas: tuple[Service, Service], hold: Hold
) -> None:
    here, there = replicas
    tokens = await here.new_session()
    asked = Asked(tokens, (await _key(here, tokens)).api_key)
    for replica in replicas:
        assert await asked.accepts(replica) == _ALL
    hold.may_read.clear()
    request = admin_pb.DisableUserRequest(user_id=tokens.user_id)
    cursor = (await here.admin().DisableUser(request)).revocation_cursor
    # This is what the cursor is for: without it, the other replica's cache answers.
    assert await asked.accepts(there) == _ALL
    answers = await asyncio.gather(
        *(asked.accepts(replicas[number % 2], cursor) for number in range(_AT_ONCE))
    )
    assert answers == [set()] * _AT_ONCE


async def test_each_ending_is_known_by_its_own_cursor(
    replicas: tuple[Service, Service], hold: Hold
) -> None:
    here, there = replicas
    tokens = await here.new_session()
    key = await _key(here, tokens)
    asked = Asked(tokens, key.api_key)
    assert await asked.accepts(there) == _ALL
    hold.may_read.clear()
    revoke_key = account_pb.RevokeApiKeyRequest(key_id=key.key.key_id)
    cursor = (
        await here.account().RevokeApiKey(revoke_key, metadata=bearer(tokens))
    ).revocation_cursor
    assert await asked.accepts(there) == _ALL
    assert await asked.accepts(there, cursor) == _ALL - {"key"}
    revoke = session_pb.RevokeSessionRequest(session_id=tokens.session_id)
    await here.sessions().RevokeSession(revoke)
    # The answer was lost, perhaps: the cursor of the same call again names the ending, too.
    cursor = (await here.sessions().RevokeSession(revoke)).revocation_cursor
    assert await asked.accepts(there, cursor) == set()


async def test_key_that_signed_the_token_is_not_trusted_on_any_replica(
    replicas: tuple[Service, Service], hold: Hold
) -> None:
    here, there = replicas
    tokens = await here.new_session()
    asked = Asked(tokens, (await _key(here, tokens)).api_key)
    assert await asked.accepts(there) == _ALL
    hold.may_read.clear()
    [active] = [
        key.key_id
        for key in (await here.admin().ListSigningKeys(admin_pb.ListSigningKeysRequest())).keys
        if key.state == admin_pb.SIGNING_KEY_STATE_ACTIVE
    ]
    request = admin_pb.RevokeSigningKeyRequest(key_id=active)
    cursor = (await here.admin().RevokeSigningKey(request)).revocation_cursor
    assert await asked.accepts(there) == _ALL
    assert await asked.accepts(there, cursor) == _ALL - {"token", "tokens"}


async def test_cursor_of_all_sessions_names_each_of_the_transactions(
    replicas: tuple[Service, Service], hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authsvc.core.sessions.bulk_ending._END", 1)
    here, there = replicas
    opened = [await here.new_session(f"user{number}@example.test") for number in range(4)]
    for tokens in opened:
        assert await there.judge_token(tokens.access_token) == ""
    hold.may_read.clear()
    request = admin_pb.RevokeAllSessionsRequest(all=True)
    cursor = (await here.admin().RevokeAllSessions(request)).revocation_cursor
    assert {await there.judge_token(tokens.access_token) for tokens in opened} == {""}
    reasons = [await there.judge_token(tokens.access_token, min_cursor=cursor) for tokens in opened]
    assert reasons == ["SESSION_REVOKED"] * 4


async def test_replica_that_knows_the_ending_answers_from_its_cache(
    replicas: tuple[Service, Service],
) -> None:
    here, there = replicas
    ended, kept = await here.new_session(), await here.login()
    for tokens in (ended, kept):
        assert await there.judge_token(tokens.access_token) == ""
    request = session_pb.RevokeSessionRequest(session_id=ended.session_id)
    cursor = (await here.sessions().RevokeSession(request)).revocation_cursor
    async with asyncio.timeout(30):
        while await there.judge_token(ended.access_token) == "":  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)
    # Not committed: whoever reads it waits or sees nothing of it, a cache does neither.
    await there.fetch("UPDATE sessions SET revoke_time = now(), revoke_reason = 'revoked'")
    assert await there.judge_token(kept.access_token, min_cursor=cursor) == ""
    assert await there.judge_token(kept.access_token, strict=True) == "SESSION_REVOKED"


async def test_cursor_of_another_run_of_the_server_is_answered_as_strict(
    replicas: tuple[Service, Service],
) -> None:
    here, there = replicas
    tokens = await here.new_session()
    assert await there.judge_token(tokens.access_token) == ""
    await here.fetch("UPDATE sessions SET revoke_time = now(), revoke_reason = 'revoked'")
    assert await there.judge_token(tokens.access_token) == ""
    elsewhere = base64url.encode(b"\1" + b"\2" * 16 + bytes(8))
    assert await there.judge_token(tokens.access_token, min_cursor=elsewhere) == "SESSION_REVOKED"


@pytest.mark.parametrize(
    "text",
    ["x", "A" * 300, "=", "\0", base64url.encode(bytes(25)), base64url.encode(b"\2" + bytes(48))],
)
async def test_malformed_cursor_is_refused_by_its_path(service: Service, text: str) -> None:
    auth, sessions = service.auth(), service.sessions()
    check = session_pb.ValidateSessionRequest(session_token="x", min_cursor=text)
    for call, path in (
        (auth.ValidateToken(auth_pb.ValidateTokenRequest(access_token="x", min_cursor=text)), ""),
        (
            auth.BatchValidateTokens(
                auth_pb.BatchValidateTokensRequest(access_tokens=["x"], min_cursor=text)
            ),
            "",
        ),
        (auth.ValidateApiKey(auth_pb.ValidateApiKeyRequest(api_key="x", min_cursor=text)), ""),
        (sessions.ValidateSession(check), ""),
        (
            sessions.BatchValidateSessions(session_pb.BatchValidateSessionsRequest(checks=[check])),
            "checks[0].",
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert fields_of(refused.value) == [f"{path}min_cursor"]
