"""Password changes: once, only with the current password, and revoking what relied on it."""

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from authsvc.core.accounts.password_change import NewPassword, PasswordChange
from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.messages.outbox import Outbox
from authsvc.core.passwords.policy import PasswordPolicy
from authsvc.errors import FieldInvalid, Overloaded, Reason, ServiceError
from authsvc.models.calls import ClientContext
from authsvc.models.ids import SessionId, UserId
from authsvc.models.tokens import Claims, Tokens
from authsvc.store import users
from tests.support.accounts import CALL, CLI, EMAIL, IP, KEYRING, PASSWORD, WRONG, Service
from tests.support.clock import FakeClock
from tests.support.logins import PHONE, causes, failures, failures_of_devices, value
from tests.support.probe import CLAIMS

NEW = "Sketch-Of-The-Engine-1842"
ANOTHER = "Note-G-Bernoulli-Numbers-7"
REFUSED = "CREDENTIALS_INVALID"
TOLD = "SELECT count(*) FROM outbox WHERE kind = 'password_changed'"


@dataclass
class World:
    """One account, and the use case that changes its password."""

    service: Service
    clock: FakeClock

    def __post_init__(self) -> None:
        service = self.service
        self.change = PasswordChange(
            database=service.database,
            hasher=service.hasher,
            acceptance=service.acceptance,
            attempts=service.attempts,
            recent_login=RecentLogin(timedelta(minutes=10), self.clock),
            sessions=service.sessions.ending,
            outbox=Outbox(KEYRING, timedelta(hours=1), self.clock),
            clock=self.clock,
        )

    async def log_in(self, device: str = "") -> Tokens:
        return await self.service.log_in(CALL, EMAIL, PASSWORD, ClientContext(IP, "Test", device))

    def claims(self, tokens: Tokens) -> Claims:
        return claims_of(tokens.user_id, tokens.session_id, self.clock)

    async def set(
        self, tokens: Tokens, current: str, new: str = NEW, *, end: bool = False, device: str = ""
    ) -> int:
        asked = NewPassword(current, new, end, ClientContext(IP, "Test", device))
        return (await self.change.change(CALL, self.claims(tokens), asked)).count

    async def outcome(self, *arguments: Any, **more: Any) -> str:
        try:
            await self.set(*arguments, **more)
        except ServiceError as error:
            return error.reason.value
        return "OK"

    async def execute(self, statement: str, *arguments: Any) -> None:
        async with self.service.database.connection() as connection:
            await connection.execute(statement, *arguments)

    async def value(self, statement: str) -> Any:
        return await value(self.service.database, statement)

    async def forget_password(self) -> None:
        """Turn it into an account whose user has only ever logged in at a provider."""
        await self.execute("UPDATE users SET password_hash = NULL, pepper_id = NULL")


def claims_of(user_id: UserId, session_id: SessionId, clock: FakeClock) -> Claims:
    return replace(CLAIMS, subject=user_id, session_id=session_id, authentication_time=clock.now())


@pytest_asyncio.fixture
async def world(limited: Service, clock: FakeClock) -> World:
    """Under the shipped limits."""
    return World(limited, clock)


@pytest_asyncio.fixture
async def free_world(free: Service, clock: FakeClock) -> World:
    """Under no limit except that on consecutive failures."""
    return World(free, clock)


async def test_only_new_password_works_after_change(world: World) -> None:
    tokens = await world.log_in()
    assert await world.set(tokens, PASSWORD) == 0
    assert await world.service.login(PASSWORD) == "CREDENTIALS_INVALID"
    assert await world.service.login(NEW) == "OK"


async def test_change_notifies_user_and_is_recorded(world: World) -> None:
    tokens = await world.log_in()
    await world.set(tokens, PASSWORD)
    assert (
        await world.value("SELECT user_id FROM outbox WHERE kind = 'password_changed'")
        == tokens.user_id
    )
    recorded = await world.value(
        "SELECT concat_ws(' ', user_id, session_id, host(ip), user_agent, detail)"
        " FROM audit_events WHERE type = 'user.password_change'"
    )
    assert recorded == f"{tokens.user_id} {tokens.session_id} {IP} Test {{}}"


@pytest.mark.parametrize("end", [True, False])
async def test_change_ends_other_sessions_on_request(end: bool, world: World) -> None:
    sessions = [await world.log_in() for _ in range(3)]
    assert await world.set(sessions[1], PASSWORD, end=end) == (2 if end else 0)
    ended = await world.value(
        "SELECT array_agg(session_id) FROM sessions WHERE revoke_time > '-infinity'"
    )
    announced = await world.value("SELECT array_agg(session_id) FROM revocations")
    others = {sessions[0].session_id, sessions[2].session_id} if end else set()
    assert set(ended or ()) == set(announced or ()) == others
    if end:
        reason = await world.value(
            "SELECT DISTINCT revoke_reason FROM sessions WHERE revoke_reason <> ''"
        )
        assert reason == "password_changed"


async def test_change_voids_trust_reset_codes_and_challenges(world: World) -> None:
    tokens = await world.log_in(PHONE)
    await world.service.register("bob@example.test")
    await world.execute("UPDATE devices SET trust_expire_time = now() + interval '1 day'")
    await world.execute(
        "INSERT INTO one_time_codes (code_id, purpose, email_canonical, user_id, code_hash,"
        " create_time, expire_time)"
        " SELECT gen_random_uuid(), 'reset_password', email_canonical, user_id, '', now(), now()"
        " FROM users"
    )
    await world.execute(
        "INSERT INTO challenges (challenge_id, kind, user_id, create_time, expire_time)"
        " SELECT gen_random_uuid(), 'mfa', user_id, now(), now() FROM users"
    )
    await world.set(tokens, PASSWORD)
    assert await world.value("SELECT count(*) FROM devices WHERE trust_expire_time IS NULL") == 1
    left = "SELECT array_agg(email_canonical || ' ' || purpose) FROM one_time_codes"
    assert set(await world.value(left)) == {
        "ada@example.test verify_email",
        "bob@example.test reset_password",
        "bob@example.test verify_email",
    }
    waiting = "SELECT array_agg(email) FROM challenges JOIN users USING (user_id)"
    assert await world.value(waiting) == ["bob@example.test"]


# The current password


async def test_guesses_with_stolen_token_are_limited_like_logins(world: World) -> None:
    tokens = await world.log_in()
    guesses = [await world.outcome(tokens, f"{WRONG}{n}") for n in range(6)]
    assert guesses == ["CREDENTIALS_INVALID"] * 5 + ["TOO_MANY_ATTEMPTS"]
    # The limits are those of all logins.
    assert await world.service.login() == "TOO_MANY_ATTEMPTS"
    assert await world.outcome(tokens, PASSWORD) == "TOO_MANY_ATTEMPTS"
    assert await failures(world.service.database) == 5
    assert (await causes(world.service.database))["login_failure:password"] == 5
    assert await world.value(TOLD) == 0


@pytest.mark.slow
async def test_concurrent_guesses_never_exceed_limit(world: World) -> None:
    tokens = await world.log_in()
    before = world.service.hasher.compared
    outcomes = await asyncio.gather(*(world.outcome(tokens, f"{WRONG}{n}") for n in range(100)))
    assert Counter(outcomes) == {"CREDENTIALS_INVALID": 5, "TOO_MANY_ATTEMPTS": 95}
    assert world.service.hasher.compared - before == 5


async def test_failed_logins_throttle_password_change(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = await world.log_in()
    for _ in range(5):
        await world.service.login(WRONG)
    looked_at: list[object] = []
    monkeypatch.setattr(PasswordPolicy, "check", lambda *_, **__: looked_at.append(1))
    assert await world.outcome(tokens, PASSWORD) == "TOO_MANY_ATTEMPTS"
    # Nothing costly happens before the limit is asked.
    assert looked_at == []


async def test_hundred_failures_lock_password_change(free_world: World) -> None:
    tokens = await free_world.log_in()
    await free_world.execute("UPDATE users SET failed_logins = 100")
    before = free_world.service.hasher.compared
    assert await free_world.outcome(tokens, PASSWORD) == "CREDENTIALS_INVALID"
    assert free_world.service.hasher.compared == before
    assert (await causes(free_world.service.database))["login_failure:locked"] == 1


async def test_change_refunds_only_its_own_attempt(world: World) -> None:
    tokens = await world.log_in()
    for _ in range(3):
        await world.service.login(WRONG)
    assert await world.outcome(tokens, PASSWORD) == "OK"
    assert await failures(world.service.database) == 3
    # And its charges are refunded: two more failures are let through.
    outcomes = [await world.service.login(WRONG) for _ in range(3)]
    assert outcomes == ["CREDENTIALS_INVALID"] * 2 + ["TOO_MANY_ATTEMPTS"]


async def test_known_device_failures_are_counted_separately(world: World) -> None:
    tokens = await world.log_in(PHONE)
    assert await world.outcome(tokens, WRONG, device=PHONE) == "CREDENTIALS_INVALID"
    assert await failures_of_devices(world.service.database) == 1
    assert await failures(world.service.database) == 0
    assert await world.outcome(tokens, PASSWORD, device=PHONE) == "OK"
    assert await failures_of_devices(world.service.database) == 1


async def test_unevaluated_attempt_is_refunded(world: World) -> None:
    tokens = await world.log_in()

    async def full() -> None:
        raise Overloaded

    world.service.hasher.before = full
    for _ in range(7):
        assert await world.outcome(tokens, WRONG) == "OVERLOADED"
    assert await failures(world.service.database) == 0


# The new password


@pytest.mark.parametrize("new", ["short-1A", "password1234", f"{EMAIL}-A1"])
@pytest.mark.parametrize("current", [PASSWORD, WRONG])
async def test_weak_password_is_rejected_before_current_one_is_checked(
    new: str, current: str, world: World
) -> None:
    tokens = await world.log_in()
    for _ in range(6):
        with pytest.raises(FieldInvalid) as refused:
            await world.set(tokens, current, new)
        assert refused.value.reason is Reason.PASSWORD_WEAK
        assert {violation.field for violation in refused.value.violations} == {"new_password"}
    assert await failures(world.service.database) == 0


@pytest.mark.parametrize("guess", [PASSWORD, WRONG])
async def test_reused_password_is_rejected_even_if_current_one_is_wrong(
    guess: str, world: World
) -> None:
    tokens = await world.log_in()
    with pytest.raises(FieldInvalid, match="than the current") as refused:
        await world.set(tokens, guess, guess)
    assert refused.value.reason is Reason.PASSWORD_WEAK


async def test_reused_password_in_other_normal_form_is_rejected(world: World) -> None:
    tokens = await world.log_in()
    fullwidth = PASSWORD.translate({ord("1"): "\uff11"})
    assert await world.outcome(tokens, PASSWORD, fullwidth) == "PASSWORD_WEAK"


async def test_current_password_is_required(world: World) -> None:
    tokens = await world.log_in()
    world.clock.advance(1)
    with pytest.raises(FieldInvalid) as refused:
        await world.set(tokens, "")
    assert [violation.field for violation in refused.value.violations] == ["current_password"]


# Races


@pytest.mark.slow
async def test_concurrent_changes_have_one_winner(free_world: World) -> None:
    tokens = await free_world.log_in()
    news = [f"{ANOTHER}-{n}" for n in range(100)]
    outcomes = await asyncio.gather(*(free_world.outcome(tokens, PASSWORD, new) for new in news))
    assert Counter(outcomes) == {"OK": 1, "CREDENTIALS_INVALID": 99}
    # Those that lost count as failures, too many for a stranger's login.
    await free_world.service.accounts.enable(CLI, EMAIL)
    assert await free_world.service.login(news[outcomes.index("OK")]) == "OK"
    assert await free_world.value(TOLD) == 1


@pytest.mark.parametrize(("meanwhile", "outcome"), [(PASSWORD, "OK"), (ANOTHER, REFUSED)])
async def test_hash_replaced_during_change_is_compared_again(
    meanwhile: str, outcome: str, world: World
) -> None:
    tokens = await world.log_in()
    hasher = world.service.hasher

    async def replace_hash() -> None:
        hasher.after_verify = _nothing
        replaced = await hasher.hash(meanwhile)
        await world.execute("UPDATE users SET password_hash = $1", replaced.phc)

    hasher.after_verify = replace_hash
    assert await world.outcome(tokens, PASSWORD) == outcome
    assert await world.service.login(NEW if outcome == "OK" else meanwhile) == "OK"


async def _nothing() -> None:
    """Do nothing."""


async def test_account_disabled_during_change_keeps_password(world: World) -> None:
    tokens = await world.log_in()

    async def disable() -> None:
        world.service.hasher.after_verify = _nothing
        await world.service.accounts.disable(CLI, EMAIL)

    world.service.hasher.after_verify = disable
    assert await world.outcome(tokens, PASSWORD) == "CREDENTIALS_INVALID"
    assert await world.outcome(tokens, PASSWORD) == "USER_NOT_FOUND"


async def test_new_account_with_same_address_is_untouched(world: World) -> None:
    tokens = await world.log_in()
    find = users.find_login_subject

    async def and_then_move(*arguments: Any) -> Any:
        await world.execute("UPDATE users SET email_canonical = 'gone@example.test'")
        await world.service.register()
        return await find(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("authsvc.core.attempts.attempts.users.find_login_subject", and_then_move)
        assert await world.outcome(tokens, PASSWORD) == "CREDENTIALS_INVALID"
    assert await world.service.login() == "OK"


# Without a password


async def test_first_password_requires_recent_login(world: World) -> None:
    tokens = await world.log_in()
    await world.forget_password()
    claims = world.claims(tokens)
    world.clock.advance(601)
    with pytest.raises(ServiceError) as refused:
        await world.change.change(CALL, claims, NewPassword("", NEW))
    assert refused.value.reason is Reason.REAUTHENTICATION_REQUIRED
    assert await world.outcome(tokens, "") == "OK"
    assert await world.service.login(NEW) == "OK"
    events = "SELECT count(*) FROM audit_events WHERE type = 'user.password_change'"
    assert await world.value(events) == 1


async def test_guess_counts_for_account_without_password(world: World) -> None:
    tokens = await world.log_in()
    await world.forget_password()
    outcomes = [await world.outcome(tokens, PASSWORD) for _ in range(6)]
    assert outcomes == ["CREDENTIALS_INVALID"] * 5 + ["TOO_MANY_ATTEMPTS"]


async def test_concurrent_first_passwords_are_set_once(free_world: World) -> None:
    tokens = await free_world.log_in()
    await free_world.forget_password()
    news = [f"{ANOTHER}-{n}" for n in range(50)]
    outcomes = Counter(await asyncio.gather(*(free_world.outcome(tokens, "", new) for new in news)))
    # Whoever comes after it is set gets the error that the current one is missing.
    assert outcomes.pop("OK") == 1
    assert outcomes.keys() <= {"CREDENTIALS_INVALID", "FIELD_INVALID"}


def test_new_password_repr_hides_passwords() -> None:
    shown = repr(NewPassword(PASSWORD, NEW))
    assert PASSWORD not in shown
    assert NEW not in shown
