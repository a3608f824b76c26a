"""Issuing a key while its session ends, and while others issue keys for the same session."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import UUID

import pytest
import pytest_asyncio

from authsvc.app.build import Parts, open_parts
from authsvc.config import Settings
from authsvc.core.session_keys.keys import AttestedKey, NewSessionKey
from authsvc.core.session_keys.proof import SessionProof
from authsvc.errors import FailedPrecondition, PermissionDenied, Reason, Unauthenticated
from authsvc.models.calls import ClientContext
from authsvc.models.ids import UserId
from authsvc.models.session_keys import PublicKey, PublicKeyKind
from authsvc.models.tokens import Tokens
from tests.support.accounts import unlimited
from tests.support.clock import FakeClock
from tests.support.probe import with_changes
from tests.support.sessions import CALL, METHODS

_USER = UserId(UUID(int=7))


def _request(number: int) -> NewSessionKey:
    return NewSessionKey(PublicKey(PublicKeyKind.JWK, f'{{"n": {number}}}'), "chat")


@pytest_asyncio.fixture
async def replicas(live_settings: Settings, clock: FakeClock) -> AsyncIterator[list[Parts]]:
    """Two, on one database, without limits on calls."""
    settings = with_changes(
        live_settings.model_copy(update={"brute_force": unlimited()}), "sessions", max_keys=3
    )
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(open_parts(settings, clock)) for _ in range(2)]
        async with opened[0].database.connection() as connection:
            await connection.execute(
                "INSERT INTO users (user_id, email, email_canonical, create_time, update_time)"
                " VALUES ($1, 'a@b.example', 'a@b.example', now(), now())",
                _USER,
            )
        for parts in opened:
            await parts.use.signing_keys.load()
        yield opened


async def _open(parts: Parts) -> Tokens:
    return await parts.use.session_opening.create(CALL, _USER, ClientContext(), METHODS)


async def _listed(parts: Parts) -> set[UUID]:
    page = await parts.use.session_keys.list(_USER, 0, "")
    return {each.key.key_id for each in page.keys}


async def test_concurrent_calls_respect_the_limit(replicas: list[Parts]) -> None:
    tokens = await _open(replicas[0])
    proof = SessionProof(tokens.session_token)
    ends = await asyncio.gather(
        *(replicas[n % 2].use.session_keys.issue(CALL, proof, _request(n % 8)) for n in range(32)),
        return_exceptions=True,
    )
    made = {end.key.key_id for end in ends if isinstance(end, AttestedKey)}
    refused = [end for end in ends if not isinstance(end, AttestedKey)]
    assert len(made) == 3
    assert {getattr(end, "reason", end) for end in refused} == {Reason.LIMIT_REACHED}
    assert await _listed(replicas[1]) == made


async def test_key_is_issued_before_the_end_of_its_session_or_not_at_all(
    replicas: list[Parts],
) -> None:
    here, there = replicas
    for _ in range(8):
        tokens = await _open(here)
        proof = SessionProof(tokens.session_token)
        first = await here.use.session_keys.issue(CALL, proof, _request(9))
        assert await _listed(there) == {first.key.key_id}
        ends = await asyncio.gather(
            *(here.use.session_keys.issue(CALL, proof, _request(n)) for n in range(2)),
            there.use.session_ending.revoke(CALL, tokens.session_id),
            return_exceptions=True,
        )
        for end in ends[:2]:
            if not isinstance(end, AttestedKey):
                assert isinstance(end, Unauthenticated)
                assert end.reason is Reason.SESSION_INVALID
        assert await _listed(here) == set()


async def test_session_that_ends_after_its_validation_gets_no_key(
    replicas: list[Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = replicas
    tokens = await _open(here)
    validation = here.use.session_validation
    validate = validation.validate

    async def validate_then_end(check: object) -> object:
        result = await validate(check)  # type: ignore[arg-type] # passed on
        await there.use.session_ending.revoke(CALL, tokens.session_id)
        return result

    monkeypatch.setattr(type(validation), "validate", lambda _, check: validate_then_end(check))
    with pytest.raises(Unauthenticated) as refused:
        await here.use.session_keys.issue(CALL, SessionProof(tokens.session_token), _request(1))
    assert refused.value.reason is Reason.SESSION_INVALID
    async with here.database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM session_keys") == 0
        events = "SELECT count(*) FROM audit_events WHERE type = 'session_key.issue'"
        assert await connection.fetchval(events) == 0


async def test_refused_call_is_not_charged(
    live_settings: Settings, replicas: list[Parts], clock: FakeClock
) -> None:
    tokens = await _open(replicas[0])
    proof = SessionProof(tokens.session_token)
    few = unlimited(session_keys_per_user={"requests": 4, "window": "1h"})
    settings = with_changes(
        live_settings.model_copy(update={"brute_force": few}), "sessions", max_keys=3
    )
    async with open_parts(settings, clock) as parts:
        await parts.use.signing_keys.load()
        for number in range(3):
            await parts.use.session_keys.issue(CALL, proof, _request(number))
        for _ in range(3):
            with pytest.raises(FailedPrecondition):
                await parts.use.session_keys.issue(CALL, proof, _request(3))
        await parts.use.session_keys.issue(CALL, proof, _request(0))


async def test_impersonated_session_gets_no_key(replicas: list[Parts]) -> None:
    tokens = await _open(replicas[0])
    async with replicas[0].database.connection() as connection:
        await connection.execute("UPDATE sessions SET impersonator = 'spiffe://authsvc.test/admin'")
    with pytest.raises(PermissionDenied) as refused:
        await replicas[0].use.session_keys.issue(
            CALL, SessionProof(tokens.session_token), _request(1)
        )
    assert refused.value.reason is Reason.IMPERSONATION_NOT_ALLOWED
    assert await _listed(replicas[0]) == set()
