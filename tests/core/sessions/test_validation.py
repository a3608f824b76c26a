"""Validation of session tokens: inactive reasons, recorded use, extension."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from authsvc.config import TokenSettings
from authsvc.core.lib.slices import Slices
from authsvc.core.sessions import validation
from authsvc.core.sessions.secrets import digest, new_csrf_token, new_session_token
from authsvc.core.sessions.validation import SessionCheck
from authsvc.models.calls import ClientContext
from authsvc.models.tokens import InactiveReason, Tokens
from tests.support.sessions import CALL, CLIENT, DAY, SECOND, Replica, World
from tests.support.turns import PER_TURN, Loop

MINUTE = timedelta(minutes=1)


async def test_active_session_is_returned(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    for _ in range(2):  # from the database, from the cache
        result = await replica.validate(tokens.session_token)
        assert result.active
        assert result.reason is None
        assert result.session is not None
        assert result.session.session_id == tokens.session_id
        assert not result.csrf_valid


async def _revoke(world: World, replica: Replica, tokens: Tokens) -> None:
    await replica.sessions.ending.revoke(CALL, tokens.session_id)


async def _disable(world: World, _replica: Replica, tokens: Tokens) -> None:
    await world.disable(tokens.user_id)


async def _expire(world: World, _replica: Replica, _tokens: Tokens) -> None:
    world.clock.advance(7 * DAY)


async def _delete(world: World, _replica: Replica, tokens: Tokens) -> None:
    await world.execute("DELETE FROM sessions WHERE session_id = $1", tokens.session_id)


_ENDS = [
    (_delete, InactiveReason.SESSION_UNKNOWN),
    (_revoke, InactiveReason.SESSION_REVOKED),
    (_disable, InactiveReason.USER_DISABLED),
    (_expire, InactiveReason.SESSION_EXPIRED),
]


@pytest.mark.parametrize(("end", "reason"), _ENDS)
@pytest.mark.parametrize("strict", [True, False])
async def test_each_way_of_ending_has_its_reason(
    world: World,
    end: Callable[[World, Replica, Tokens], Awaitable[None]],
    reason: InactiveReason,
    strict: bool,
) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await end(world, replica, tokens)
    for _ in range(2):
        result = await replica.validate(tokens.session_token, strict=strict)
        assert not result.active
        assert result.reason is reason
        assert result.session is None


async def test_most_severe_of_several_reasons_is_reported(world: World) -> None:
    replica = world.replica(ip_binding="exact", user_agent_binding=True)
    tokens = await world.open(replica)
    stranger = ClientContext("198.51.100.1", "Bot")

    async def reason() -> InactiveReason | None:
        return (await replica.validate(tokens.session_token, stranger)).reason

    same_ip = ClientContext(CLIENT.ip, "Bot")
    by_agent = await replica.validate(tokens.session_token, same_ip)
    assert by_agent.reason is InactiveReason.USER_AGENT_MISMATCH
    assert await reason() is InactiveReason.IP_MISMATCH
    world.clock.advance(7 * DAY)
    assert await reason() is InactiveReason.SESSION_EXPIRED
    await world.disable(tokens.user_id)
    assert await reason() is InactiveReason.USER_DISABLED
    await replica.sessions.ending.revoke(CALL, tokens.session_id)
    assert await reason() is InactiveReason.SESSION_REVOKED


async def test_unknown_token_is_not_reported_as_malformed(world: World) -> None:
    replica = world.replica()
    result = await replica.validate(new_session_token())
    assert result.reason is InactiveReason.SESSION_UNKNOWN
    assert (await replica.validate("as1_garbage")).reason is InactiveReason.MALFORMED


async def test_malformed_token_costs_no_query(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await world.database.close()
    changed = tokens.session_token[:-1] + ("A" if tokens.session_token[-1] != "A" else "B")
    for token in (changed, tokens.access_token, tokens.refresh_token, tokens.csrf_token, ""):
        result = await replica.validate(token, strict=True)
        assert result.reason is InactiveReason.MALFORMED


async def test_csrf_token_is_bound_to_its_session(world: World) -> None:
    replica = world.replica()
    tokens, others = await world.open(replica), await world.open(replica)
    for _ in range(2):
        for csrf_token, valid in (
            (tokens.csrf_token, True),
            (others.csrf_token, False),
            (new_csrf_token(), False),
            (tokens.csrf_token[:-1], False),
            ("\N{SNOWMAN}", False),
            ("", False),
        ):
            result = await replica.validate(tokens.session_token, csrf_token=csrf_token)
            assert result.active
            assert result.csrf_valid is valid


async def test_inactive_session_has_no_valid_csrf_token(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await replica.sessions.ending.revoke(CALL, tokens.session_id)
    result = await replica.validate(tokens.session_token, csrf_token=tokens.csrf_token)
    assert not result.csrf_valid


async def test_batch_returns_results_in_order(world: World) -> None:
    replica = world.replica()
    opened = [await world.open(replica) for _ in range(4)]
    await replica.validate(opened[1].session_token)
    await replica.sessions.ending.revoke(CALL, opened[2].session_id)
    texts = [opened[0], opened[1], opened[2], opened[1]]
    checks = [SessionCheck(tokens.session_token, CLIENT) for tokens in texts]
    checks.insert(2, SessionCheck("garbage", CLIENT))
    checks.append(SessionCheck(opened[3].session_token, CLIENT, opened[3].csrf_token, strict=True))
    results = await replica.sessions.validation.validate_many(checks)
    ids = [result.session and result.session.session_id for result in results]
    assert ids == [
        opened[0].session_id,
        opened[1].session_id,
        None,
        None,
        opened[1].session_id,
        opened[3].session_id,
    ]
    assert results[2].reason is InactiveReason.MALFORMED
    assert results[3].reason is InactiveReason.SESSION_REVOKED
    assert results[5].csrf_valid
    assert await replica.sessions.validation.validate_many([]) == []


def test_check_hides_its_secrets_in_repr() -> None:
    text = repr(SessionCheck("the-session-token", csrf_token="the-csrf-token"))
    assert "the-session-token" not in text
    assert "the-csrf-token" not in text


async def test_batch_extends_each_session_that_is_due_once(world: World) -> None:
    replica = world.replica(cache_size=1)
    opened = [await world.open(replica) for _ in range(3)]
    ends = [tokens.refresh_token_expire_time for tokens in opened]
    world.clock.advance(TokenSettings().refresh_lifetime / 2 + SECOND)
    await replica.sessions.ending.revoke(CALL, opened[2].session_id)
    checks = [SessionCheck(tokens.session_token, CLIENT) for tokens in [*opened, opened[0]]]
    results = await replica.sessions.validation.validate_many(checks)
    assert [result.active for result in results] == [True, True, False, True]
    for result, end in zip((results[0], results[1], results[3]), (*ends[:2], ends[0]), strict=True):
        assert result.session is not None
        assert result.session.idle_expire_time > end
    assert results[2].reason is InactiveReason.SESSION_REVOKED


async def test_batches_are_validated_in_slices(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop()
    replica = world.replica(slices=Slices(lambda: loop.now))
    checks = [SessionCheck(new_session_token(), CLIENT) for _ in range(52)]

    def work(text: str) -> bytes:
        loop.work(1)
        return digest(text)

    monkeypatch.setattr(validation, "digest", work)
    validate_many = replica.sessions.validation.validate_many
    batches = await asyncio.gather(*(validate_many(checks) for _ in range(4)))
    assert {result.reason for results in batches for result in results} == {
        InactiveReason.SESSION_UNKNOWN
    }
    assert max(loop.done.values()) == PER_TURN
