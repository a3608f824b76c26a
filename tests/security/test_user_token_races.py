"""Losses of a user beside the issuing of tokens: `iat` says exactly what a token still has."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import jwt
import pytest
import pytest_asyncio

from authsvc.app.build import Parts, open_parts
from authsvc.config import Settings
from authsvc.core.accounts.accounts import NewUser
from authsvc.core.tokens.validation import TokenCheck, TokenResult
from authsvc.errors import ServiceError
from authsvc.models.calls import ClientContext
from authsvc.models.ids import UserId
from authsvc.models.tokens import Claims, InactiveReason
from authsvc.store.postgres.database import Database
from tests.support.accounts import CALL
from tests.support.clock import FakeClock
from tests.support.databases import until, waits_for_a_lock
from tests.support.issuing import SHOP
from tests.support.probe import with_changes

_CLIENT = ClientContext("192.0.2.1", "Browser/1", "phone")
_ROLES = tuple(f"role{number}" for number in range(12))


class JumpingClock(FakeClock):
    """A clock that is a second later each time: whatever happens in between crosses a second."""

    def now(self) -> Any:
        self.advance(1)
        return super().now()


@pytest.fixture
def clock() -> JumpingClock:
    return JumpingClock()


@pytest_asyncio.fixture
async def parts(live_settings: Settings, clock: JumpingClock) -> AsyncIterator[Parts]:
    settings = live_settings.model_copy(
        update={"permissions": {"user": ["read"]} | {role: [role] for role in _ROLES}}
    )
    settings = with_changes(settings, "tokens", refresh_grace=timedelta(seconds=300))
    settings = with_changes(settings, "database", pool_max=32)
    settings = with_changes(settings, "sessions", max_per_user=10_000)
    async with open_parts(settings, clock) as parts:
        await parts.use.signing_keys.load()
        yield parts


@dataclass(frozen=True)
class _Event:
    """A role that was removed, and the time up to whose second tokens are refused."""

    role: str
    second: int


async def _user(parts: Parts) -> UserId:
    user = NewUser("ada@example.test", roles=("user", *_ROLES), verified=True)
    return await parts.use.accounts.create_user(CALL, user)


def _content(token: str) -> dict[str, Any]:
    content: dict[str, Any] = jwt.decode(
        token, options={"verify_signature": False, "verify_exp": False, "verify_iat": False}
    )
    return content


async def _remove_roles(parts: Parts, user_id: UserId) -> list[_Event]:
    """Take one role after the other from the user, while tokens are issued."""
    events, left = [], ["user", *_ROLES]
    for role in _ROLES:
        left.remove(role)
        await parts.use.user_administration.set_roles(CALL, user_id, left)
        async with parts.database.connection() as connection:
            time = await connection.fetchval(
                "SELECT token_revoke_time FROM users WHERE user_id = $1", user_id
            )
        events.append(_Event(role, int(time.timestamp())))
        await asyncio.sleep(0)
    return events


async def _refresh_until(parts: Parts, refresh_token: str, done: asyncio.Event) -> list[str]:
    """Refresh a session over and over, each token twice at once; return the access tokens."""
    issued = []
    while not done.is_set():
        answers = await asyncio.gather(
            *(parts.use.session_refresh.refresh(CALL, refresh_token, _CLIENT) for _ in range(2))
        )
        issued += [tokens.access_token for tokens in answers]
        refresh_token = answers[0].refresh_token
    return issued


async def _log_in_until(parts: Parts, user_id: UserId, done: asyncio.Event) -> list[str]:
    issued = []
    while not done.is_set():
        tokens = await parts.use.session_opening.create(CALL, user_id, _CLIENT, ("pwd",))
        issued.append(tokens.access_token)
    return issued


async def test_token_has_a_role_exactly_if_its_removal_refuses_the_token(parts: Parts) -> None:
    user_id = await _user(parts)
    opened = [
        await parts.use.session_opening.create(CALL, user_id, _CLIENT, ("pwd",)) for _ in range(4)
    ]
    done = asyncio.Event()
    issuing = [
        asyncio.create_task(_refresh_until(parts, tokens.refresh_token, done)) for tokens in opened
    ]
    issuing.append(asyncio.create_task(_log_in_until(parts, user_id, done)))
    events = await _remove_roles(parts, user_id)
    done.set()
    tokens = [_content(text) for issued in await asyncio.gather(*issuing) for text in issued]
    assert len(tokens) > len(_ROLES)
    for token in tokens:
        for event in events:
            assert (event.role in token["roles"]) == (token["iat"] <= event.second)


async def test_refresh_waits_for_a_loss_that_is_being_committed(
    parts: Parts, database: Database
) -> None:
    user_id = await _user(parts)
    tokens = await parts.use.session_opening.create(CALL, user_id, _CLIENT, ("pwd",))
    async with database.transaction() as connection:
        await connection.execute("UPDATE users SET roles = '{user}' WHERE user_id = $1", user_id)
        refresh = asyncio.create_task(
            parts.use.session_refresh.refresh(CALL, tokens.refresh_token, _CLIENT)
        )
        async with parts.database.connection() as watching:
            await until(lambda: waits_for_a_lock(watching))
        assert not refresh.done()
    assert _content((await refresh).access_token)["roles"] == ["user"]


async def test_token_exchanged_beside_a_loss_is_refused_with_the_one_it_was_made_from(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_id, use = await _user(parts), parts.use
    tokens = await use.session_opening.create(CALL, user_id, _CLIENT, ("pwd",))
    validate = use.token_validation.validate

    async def validate_before_the_loss(check: TokenCheck) -> TokenResult:
        result = await validate(check)
        await use.user_administration.set_roles(CALL, user_id, ("user",))
        return result

    monkeypatch.setattr(use.token_validation, "validate", validate_before_the_loss)
    exchanged = await use.service_tokens.exchange(CALL, SHOP, tokens.access_token, "billing", ())
    check = TokenCheck(exchanged.text, audience="billing", strict=True)
    assert (await validate(check)).reason is InactiveReason.TOKEN_OUTDATED
    with pytest.raises(ServiceError):
        await use.service_tokens.exchange(CALL, SHOP, tokens.access_token, "billing", ())


class TestWithinOneSecond:
    """With a clock that stands still: all of it happens in the same second."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    async def test_token_issued_after_a_loss_in_the_same_second_is_accepted_at_once(
        self, parts: Parts
    ) -> None:
        user_id, use = await _user(parts), parts.use
        old = await use.session_opening.create(CALL, user_id, _CLIENT, ("pwd",))
        for _ in range(3):
            await use.accounts.disable(CALL, user_id)
            await use.accounts.enable(CALL, user_id)
            new = await use.session_opening.create(CALL, user_id, _CLIENT, ("pwd",))
            claims = await use.token_validation.bearer(new.access_token)
            assert isinstance(claims, Claims)
            assert claims.not_before_time == parts.clock.now()
            [stored] = await _fetch(parts, "SELECT token_revoke_time FROM users")
            assert claims.issue_time > stored["token_revoke_time"]
            assert _content(old.access_token)["iat"] < claims.issue_time.timestamp()
            old = new

    async def test_refresh_after_a_loss_in_the_same_second_is_accepted_at_once(
        self, parts: Parts
    ) -> None:
        user_id, use = await _user(parts), parts.use
        opened = await use.session_opening.create(CALL, user_id, _CLIENT, ("pwd",))
        tokens = opened
        for count in range(len(_ROLES), 0, -1):
            await use.user_administration.set_roles(CALL, user_id, ("user", *_ROLES[: count - 1]))
            outdated = await use.token_validation.validate(TokenCheck(tokens.access_token))
            assert outdated.reason is InactiveReason.TOKEN_OUTDATED
            tokens = await use.session_refresh.refresh(CALL, tokens.refresh_token, _CLIENT)
            # A lost answer: the same again, with the roles of now.
            again = (
                await use.session_refresh.refresh(CALL, opened.refresh_token, _CLIENT)
                if (count == len(_ROLES))
                else tokens
            )
            for text in (tokens.access_token, again.access_token):
                claims = await use.token_validation.bearer(text)
                assert len(claims.roles) == count


async def _fetch(parts: Parts, statement: str) -> list[Any]:
    async with parts.database.connection() as connection:
        return await connection.fetch(statement)
