"""Replicas whose machines disagree about the time: what may happen once happens once.

The machine of one replica is 15 s ahead and that of the other 60 s behind. The time itself is the
database's, which the tests move.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import asyncpg
import pyotp
import pytest_asyncio

from authsvc.app.build import Parts, open_parts
from authsvc.config import Settings
from authsvc.core.accounts.accounts import Registration
from authsvc.core.codes.one_time_codes import Purpose
from authsvc.core.factors.proofs import RecoveryCode, SecondFactor, TotpCode
from authsvc.core.sessions.validation import SessionCheck
from authsvc.models.calls import ClientContext
from authsvc.models.factors import MfaChallenge
from authsvc.models.ids import UserId
from authsvc.models.messages import Delivery
from authsvc.models.tokens import InactiveReason, Tokens
from authsvc.store.postgres.connector import Connection
from tests.support.accounts import CALL, EMAIL, PASSWORD, cheap_passwords, unlimited
from tests.support.codes import outcome, unlimited_codes
from tests.support.jobs import running

_CLIENT = ClientContext("192.0.2.1", "Browser/1", "phone")
_PATIENCE = 60.0
_AHEAD, _BEHIND = timedelta(seconds=15), timedelta(seconds=-60)
_SECOND, _DAY = timedelta(seconds=1), timedelta(days=1)
# Time that a busy machine may need from one step to the next.
_SLACK = 20 * _SECOND
_EXPIRED = [InactiveReason.SESSION_EXPIRED] * 2
# In front of the catalog, so that it is called instead of the built-in function.
_MOVABLE = """
CREATE SCHEMA moved;
CREATE TABLE moved.ahead (seconds float8 NOT NULL);
INSERT INTO moved.ahead VALUES (0);
CREATE FUNCTION moved.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    'SELECT pg_catalog.clock_timestamp() + (SELECT seconds FROM moved.ahead) * interval ''1 s''';
ALTER DATABASE {} SET search_path = moved, pg_catalog, public;
"""


@dataclass(frozen=True)
class _Machine:
    """The clock of a machine that is wrong."""

    off: timedelta

    def now(self) -> datetime:
        return datetime.now(UTC) + self.off


class World:
    """Two replicas, a user, and the database's clock, which can be moved."""

    def __init__(
        self, connection: Connection, ahead: Parts, behind: Parts, user_id: UserId
    ) -> None:
        self._connection = connection
        self._replicas = (ahead, behind)
        self.user_id = user_id
        # The replica that does something first, and the one that comes second.
        self.both_ways = ((ahead, behind), (behind, ahead))

    async def now(self) -> datetime:
        now: datetime = await self._connection.fetchval("SELECT moved.clock_timestamp()")
        return now

    async def pass_time(self, time: timedelta) -> None:
        """Move the database's clock, and wait until the replicas have noticed."""
        await self._connection.execute(
            "UPDATE moved.ahead SET seconds = seconds + $1", time.total_seconds()
        )
        async with asyncio.timeout(_PATIENCE):
            while not await self._have_noticed():  # noqa: ASYNC110 - clocks are followed silently
                await asyncio.sleep(0.02)

    async def open(self, replica: Parts) -> Tokens:
        return await replica.use.session_opening.create(CALL, self.user_id, _CLIENT, ("pwd",))

    async def _have_noticed(self) -> bool:
        now = await self.now()
        return all(abs(parts.clock.now() - now) < _SECOND / 2 for parts in self._replicas)


@pytest_asyncio.fixture
async def world(live_settings: Settings, database_dsn: str) -> AsyncIterator[World]:
    changes = {
        "brute_force": unlimited(),
        "codes": unlimited_codes(),
        "passwords": cheap_passwords(),
    }
    settings = live_settings.model_copy(update=changes)
    async with AsyncExitStack() as stack:
        connection: Connection = await asyncpg.connect(database_dsn)
        stack.push_async_callback(connection.close)
        await connection.execute(_MOVABLE.format(urlsplit(database_dsn).path.removeprefix("/")))
        replicas = []
        for off in (_AHEAD, _BEHIND):
            parts = await stack.enter_async_context(open_parts(settings, machine=_Machine(off)))
            await parts.use.signing_keys.load()
            await stack.enter_async_context(running(parts.revocation_reader))
            replicas.append(parts)
        ahead, behind = replicas
        registered = await ahead.use.accounts.register(CALL, Registration(EMAIL, PASSWORD))
        await connection.execute("UPDATE users SET email_verify_time = create_time")
        yield World(connection, ahead, behind, registered.user_id)


async def _refresh(replica: Parts, tokens: Tokens, client: ClientContext = _CLIENT) -> Tokens:
    return await replica.use.session_refresh.refresh(CALL, tokens.refresh_token, client)


async def test_repeated_refresh_within_grace_gets_the_current_tokens(world: World) -> None:
    for first, second in world.both_ways:
        tokens = await world.open(first)
        current = await _refresh(first, tokens)
        repeated = await _refresh(second, tokens)
        assert repeated.refresh_token == current.refresh_token


async def test_theft_after_grace_is_noticed(world: World) -> None:
    for first, second in world.both_ways:
        tokens = await world.open(first)
        await _refresh(first, tokens)
        await world.pass_time(11 * _SECOND)
        stranger = ClientContext("192.0.2.1", "Browser/1", "laptop")
        assert await outcome(_refresh(second, tokens, stranger)) == "REFRESH_TOKEN_REUSED"


async def test_lost_answer_is_recovered_once_grace_is_over_by_the_databases_clock(
    world: World,
) -> None:
    for first, second in world.both_ways:
        tokens = await world.open(first)
        lost = await _refresh(first, tokens)
        await world.pass_time(11 * _SECOND)
        recovered = await _refresh(second, tokens)
        assert recovered.refresh_token != lost.refresh_token
        assert (await _refresh(first, tokens)).refresh_token == recovered.refresh_token
        assert await outcome(_refresh(first, lost)) == "REFRESH_TOKEN_REUSED"


async def test_code_works_once_and_until_it_expires(world: World) -> None:
    for first, second in world.both_ways:
        for wait, expected in (
            (timedelta(minutes=10) - _SLACK, ["CODE_INVALID", "OK"]),
            (timedelta(minutes=10), ["CODE_INVALID", "CODE_INVALID"]),
        ):
            issued = await first.use.code_requests.request(
                CALL, Purpose.LOGIN, EMAIL, Delivery.RETURN, _CLIENT
            )
            await world.pass_time(wait)
            tried = [
                outcome(each.use.code_login.log_in(CALL, issued.code_id, issued.code, _CLIENT))
                for each in (first, second)
            ]
            assert sorted(await asyncio.gather(*tried)) == expected


async def _secure(world: World, replica: Parts) -> tuple[str, list[str]]:
    """Enroll an authenticator app; return its secret and the recovery codes."""
    tokens = await world.open(replica)
    claims = await replica.use.token_validation.bearer(tokens.access_token)
    totp = replica.use.totp_enrollments
    enrollment = await totp.enroll(claims, "")
    code = pyotp.TOTP(enrollment.secret).at(await world.now())
    codes = await totp.confirm(CALL, claims, enrollment.factor_id, code, _CLIENT)
    return enrollment.secret, codes


async def _verify(replica: Parts, factor: SecondFactor) -> str:
    login = await replica.use.password_login.log_in(CALL, EMAIL, PASSWORD, _CLIENT)
    assert isinstance(login, MfaChallenge)
    return await outcome(
        replica.use.mfa_verification.verify(CALL, login.mfa_token, factor, _CLIENT)
    )


async def test_code_of_an_app_is_accepted_by_both_but_once(world: World) -> None:
    """The user's device shows the code of the true time, whatever the machines say."""
    secret, _ = await _secure(world, world.both_ways[0][0])
    for first, second in world.both_ways:
        await world.pass_time(2 * timedelta(seconds=30))
        code = TotpCode(pyotp.TOTP(secret).at(await world.now()))
        assert await _verify(first, code) == "OK"
        assert await _verify(second, code) == "CREDENTIALS_INVALID"


async def test_recovery_code_is_accepted_once(world: World) -> None:
    _, codes = await _secure(world, world.both_ways[0][0])
    for (first, second), code in zip(world.both_ways, codes, strict=False):
        tried = [_verify(each, RecoveryCode(code)) for each in (first, second)]
        assert sorted(await asyncio.gather(*tried)) == ["CREDENTIALS_INVALID", "OK"]


async def _state(replica: Parts, tokens: Tokens) -> InactiveReason | None:
    check = SessionCheck(tokens.session_token, _CLIENT)
    return (await replica.use.session_validation.validate(check)).reason


async def test_session_in_use_is_extended_and_ends_when_it_has_to(world: World) -> None:
    for first, second in world.both_ways:
        used = await world.open(first)
        # Each use extends it by seven days, but not past 30 days.
        for _ in range(5):
            await world.pass_time(6 * _DAY - _SLACK / 5)
            assert await _state(second, used) is None
        await world.pass_time(_SLACK + _SECOND)
        assert [await _state(each, used) for each in (first, second)] == _EXPIRED


async def test_session_left_alone_expires_for_both_at_once(world: World) -> None:
    for first, second in world.both_ways:
        kept, left = await world.open(first), await world.open(first)
        await world.pass_time(7 * _DAY - _SLACK)
        assert await _state(second, kept) is None
        await world.pass_time(_SLACK)
        assert [await _state(each, left) for each in (first, second)] == _EXPIRED
        assert [await _state(each, kept) for each in (first, second)] == [None] * 2


async def test_token_of_one_replica_is_accepted_by_the_other_at_once(world: World) -> None:
    for first, second in world.both_ways:
        tokens = await world.open(first)
        claims = await second.use.token_validation.bearer(tokens.access_token)
        assert claims.subject == world.user_id
