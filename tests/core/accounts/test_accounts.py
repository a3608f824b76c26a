"""Accounts: one per address, even under races, and locked out at once when disabled."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

import pytest
import pytest_asyncio

from authsvc.config import BruteForceSettings
from authsvc.core.accounts.accounts import NewUser, Registration
from authsvc.core.lib.emails import parse_email
from authsvc.errors import (
    AlreadyExists,
    FieldInvalid,
    NotFound,
    Overloaded,
    Reason,
    ServiceError,
    TooManyAttempts,
    Unauthenticated,
)
from authsvc.models.calls import ClientContext
from authsvc.models.ids import UserId
from authsvc.models.users import UserStatus
from authsvc.store.postgres.database import Database
from tests.support.accounts import (
    CALL,
    CLI,
    EMAIL,
    IP,
    PASSWORD,
    Service,
    cheap_passwords,
    unlimited,
)
from tests.support.clock import FakeClock
from tests.support.databases import opened
from tests.support.probe import CLAIMS

NOBODY = UserId(UUID(int=0))


@pytest_asyncio.fixture
async def service(database: Database, clock: FakeClock) -> AsyncIterator[Service]:
    started = await Service(database, clock, unlimited()).start()
    yield started
    started.hasher.close()


async def _events(database: Database) -> list[tuple[str, str, str, UUID | None]]:
    """Return type, caller, request id and user of every event of an account, in order."""
    async with database.connection() as conn:
        rows = await conn.fetch(
            "SELECT type, caller, request_id, user_id FROM audit_events "
            "WHERE type LIKE 'user.%' ORDER BY event_id"
        )
    return [tuple(row) for row in rows]


async def _count(database: Database, table: str) -> int:
    async with database.connection() as conn:
        return int(await conn.fetchval(f"SELECT count(*) FROM {table}"))


async def test_registered_account_is_active_with_user_role(
    service: Service, clock: FakeClock
) -> None:
    registration = Registration(EMAIL, PASSWORD, "Ada", ClientContext(IP))
    user_id = (await service.accounts.register(CALL, registration)).user_id
    user = await service.accounts.get(user_id)
    assert user.user_id == user_id
    assert (user.email, user.display_name, user.roles) == (EMAIL, "Ada", ("user",))
    assert (user.status, user.create_time) == (UserStatus.ACTIVE, clock.now())
    assert await service.login() == "OK"


async def test_registration_opens_no_session(service: Service, database: Database) -> None:
    await service.register()
    assert await _count(database, "sessions") == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ada@example.test", "ADA@EXAMPLE.TEST"),
        ("ada@bücher.test", "ada@xn--bcher-kva.test"),
        ("josé@example.test", "jose\u0301@example.test"),
    ],
)
async def test_email_spelling_variants_map_to_one_account(
    service: Service, database: Database, first: str, second: str
) -> None:
    await service.register(first)
    with pytest.raises(AlreadyExists) as refused:
        await service.register(second)
    assert refused.value.reason is Reason.EMAIL_TAKEN
    assert await _count(database, "users") == 1
    assert await service.login(email=second) == "OK"


@pytest.mark.parametrize("email", ["\ufb01rst@example.test", "stra\u00dfe@example.test"])
async def test_look_alike_address_gets_no_account_but_existing_one_keeps_working(
    service: Service, database: Database, email: str
) -> None:
    for creating in (
        service.register(email),
        service.accounts.create_user(CLI, NewUser(email, PASSWORD)),
    ):
        with pytest.raises(FieldInvalid) as refused:
            await creating
        assert refused.value.reason is Reason.EMAIL_INVALID
    assert await _count(database, "users") == 0
    # From before that rule.
    await service.register("first@example.test")
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE users SET email = $1, email_canonical = $2",
            email,
            parse_email(email).canonical,
        )
    assert await service.login(email=email) == "OK"
    assert await service.login(email=parse_email(email).canonical) == "OK"
    await service.accounts.disable(CLI, email)


async def test_plus_tag_makes_a_distinct_address(service: Service) -> None:
    assert await service.register("ada@example.test") != await service.register(
        "ada+tag@example.test"
    )


@pytest.mark.slow
async def test_concurrent_registrations_create_one_account(
    service: Service, database: Database
) -> None:
    outcomes = await asyncio.gather(
        *(service.register(EMAIL.swapcase() if n % 2 else EMAIL) for n in range(100)),
        return_exceptions=True,
    )
    winners = [outcome for outcome in outcomes if isinstance(outcome, UUID)]
    losers = [outcome for outcome in outcomes if isinstance(outcome, AlreadyExists)]
    assert (len(winners), len(losers)) == (1, 99)
    assert await _count(database, "users") == 1
    assert await _events(database) == [("user.register", CALL.caller, CALL.request_id, winners[0])]


@pytest.mark.parametrize(
    ("email", "password", "reason"),
    [
        ("no address", PASSWORD, Reason.EMAIL_INVALID),
        (EMAIL, "short", Reason.PASSWORD_WEAK),
        (EMAIL, "Analytical\0Engine-1843", Reason.FIELD_INVALID),
    ],
)
async def test_invalid_registration_creates_no_account(
    service: Service, database: Database, email: str, password: str, reason: Reason
) -> None:
    with pytest.raises(FieldInvalid) as refused:
        await service.register(email, password)
    assert refused.value.reason is reason
    assert await _count(database, "users") == 0
    assert await _events(database) == []


async def test_password_containing_own_name_is_rejected(service: Service) -> None:
    registration = Registration(EMAIL, "Ada-Lovelace-1815", "Ada Lovelace")
    with pytest.raises(FieldInvalid) as refused:
        await service.accounts.register(CALL, registration)
    assert refused.value.reason is Reason.PASSWORD_WEAK


async def test_session_that_has_ended_renames_nothing(service: Service) -> None:
    user_id = await service.register()
    tokens = await service.log_in(CALL, EMAIL, PASSWORD, ClientContext(IP))
    # A replica that has not read of it yet still accepts the token.
    claims = replace(CLAIMS, subject=user_id, session_id=tokens.session_id)
    await service.accounts.rename(CALL, claims, "Ada")
    await service.sessions.ending.revoke(CALL, tokens.session_id)
    with pytest.raises(Unauthenticated) as refused:
        await service.accounts.rename(CALL, claims, "Squatter")
    assert refused.value.reason is Reason.BEARER_INVALID
    assert (await service.accounts.get(user_id)).display_name == "Ada"


async def test_registrations_are_limited_per_ip(database: Database, clock: FakeClock) -> None:
    service = await Service(database, clock).start()
    allowed = BruteForceSettings().registrations_per_ip.requests

    async def register(number: int, ip: str | None) -> str:
        registration = Registration(
            f"user{number}@example.test", PASSWORD, client=ClientContext(ip)
        )
        try:
            await service.accounts.register(CALL, registration)
        except TooManyAttempts as error:
            return error.reason
        return "OK"

    outcomes = [await register(number, IP) for number in range(allowed + 2)]
    assert outcomes == ["OK"] * allowed + ["TOO_MANY_ATTEMPTS"] * 2
    assert await register(allowed, None) == "OK"
    service.hasher.close()


async def test_rejected_registrations_count_toward_limit(
    database: Database, clock: FakeClock
) -> None:
    service = await Service(database, clock).start()
    weak = Registration(EMAIL, "short", client=ClientContext(IP))
    reasons = []
    for _ in range(BruteForceSettings().registrations_per_ip.requests + 1):
        with pytest.raises(ServiceError) as refused:
            await service.accounts.register(CALL, weak)
        reasons.append(refused.value.reason)
    assert reasons[-2:] == [Reason.PASSWORD_WEAK, Reason.TOO_MANY_ATTEMPTS]
    service.hasher.close()


@pytest.mark.slow
async def test_full_hash_queue_rejects_registration(database: Database, clock: FakeClock) -> None:
    slow = cheap_passwords(argon2_memory_kib=19_456, hash_workers=1, hash_queue=1)
    service = await Service(database, clock, unlimited(), slow).start()
    outcomes = await asyncio.gather(
        *(service.register(f"user{n}@example.test") for n in range(10)), return_exceptions=True
    )
    made = sum(isinstance(outcome, UUID) for outcome in outcomes)
    assert made == await _count(database, "users")
    assert made + sum(isinstance(outcome, Overloaded) for outcome in outcomes) == 10
    assert made < 10
    service.hasher.close()


async def test_registration_holds_no_connection_while_hashing(
    database_dsn: str, clock: FakeClock
) -> None:
    async with opened(database_dsn, pool_max=1) as database:
        service = await Service(database, clock, unlimited()).start()
        service.hasher.before = database.ping
        await service.register()
        service.hasher.close()


async def test_get_returns_not_found_for_unknown_and_disabled_accounts(service: Service) -> None:
    user_id = await service.register()
    await service.accounts.disable(CLI, user_id)
    for who in (user_id, NOBODY):
        with pytest.raises(NotFound) as refused:
            await service.accounts.get(who)
        assert refused.value.reason is Reason.USER_NOT_FOUND


async def test_operator_creates_account_with_roles(service: Service, database: Database) -> None:
    user_id = await service.accounts.create_user(
        CLI, NewUser(EMAIL, PASSWORD, "Ada", roles=("user", "editor"))
    )
    user = await service.accounts.get(user_id)
    assert (user.display_name, user.roles) == ("Ada", ("user", "editor"))
    assert await _events(database) == [("user.create", "cli", CLI.request_id, user_id)]
    assert user.email_verify_time is None
    with pytest.raises(AlreadyExists):
        await service.accounts.create_user(CLI, NewUser(EMAIL.upper(), PASSWORD))
    with pytest.raises(FieldInvalid):
        await service.accounts.create_user(CLI, NewUser("bob@example.test", "short"))


async def test_operator_can_create_account_with_verified_address(
    service: Service, database: Database
) -> None:
    user_id = await service.accounts.create_user(CLI, NewUser(EMAIL, PASSWORD, verified=True))
    assert (await service.accounts.get(user_id)).email_verify_time is not None
    async with database.connection() as connection:
        detail = await connection.fetchval(
            "SELECT detail FROM audit_events WHERE type = 'user.create'"
        )
    assert json.loads(detail) == {"verified": True}


@pytest.mark.parametrize("by", ["id", "id as text", "address"])
async def test_account_can_be_disabled_and_enabled_again(
    service: Service, database: Database, by: str
) -> None:
    user_id = await service.register()
    names: dict[str, UserId | str] = {
        "id": user_id,
        "id as text": str(user_id),
        "address": EMAIL.upper(),
    }
    who = names[by]
    assert await service.login() == "OK"
    await service.accounts.disable(CLI, who)
    assert await service.login() == "CREDENTIALS_INVALID"
    assert await service.accounts.enable(CLI, who) == user_id
    assert await service.login() == "OK"
    types = [event[0] for event in await _events(database)]
    assert types.index("user.disable") < types.index("user.enable")
    switched = [event for event in await _events(database) if event[0].endswith("able")]
    assert [event[1:] for event in switched] == [("cli", CLI.request_id, user_id)] * 2


async def test_disabling_account_ends_all_sessions(service: Service, database: Database) -> None:
    user_id = await service.register()
    tokens = await service.log_in(CALL, EMAIL, PASSWORD, ClientContext(IP))
    await service.login()
    await service.accounts.disable(CLI, user_id)
    async with database.connection() as conn:
        reasons = await conn.fetch("SELECT revoke_reason FROM sessions")
        revoked = await conn.fetchval(
            "SELECT count(*) FROM revocations WHERE user_id = $1", user_id
        )
    assert [row["revoke_reason"] for row in reasons] == ["user_disabled"] * 2
    assert revoked == 1
    await service.accounts.enable(CLI, user_id)
    with pytest.raises(ServiceError) as refused:
        await service.sessions.refreshing.refresh(CALL, tokens.refresh_token, ClientContext(IP))
    assert refused.value.reason is Reason.REFRESH_TOKEN_INVALID


async def test_concurrent_login_never_survives_disable(
    service: Service, database: Database
) -> None:
    user_id = await service.register()
    outcomes = await asyncio.gather(
        *(service.login() for _ in range(10)),
        _disable(service, user_id),
        *(service.login() for _ in range(10)),
    )
    assert set(outcomes) <= {"OK", "CREDENTIALS_INVALID", "disabled"}
    async with database.connection() as conn:
        live = await conn.fetchval("SELECT count(*) FROM sessions WHERE revoke_time IS NULL")
    assert live == 0


@pytest.mark.parametrize("who", [NOBODY, str(NOBODY), "nobody@example.test", "neither"])
async def test_disable_and_enable_return_not_found_for_unknown_user(
    service: Service, database: Database, who: UserId | str
) -> None:
    for switch in (service.accounts.disable, service.accounts.enable):
        with pytest.raises(NotFound) as refused:
            await switch(CLI, who)
        assert refused.value.reason is Reason.USER_NOT_FOUND
    assert await _events(database) == []


async def test_audit_events_contain_no_address_or_password(
    service: Service, database: Database
) -> None:
    registration = Registration(EMAIL, PASSWORD, "Ada", ClientContext(IP, "Test", "phone"))
    user_id = (await service.accounts.register(CALL, registration)).user_id
    await service.accounts.disable(CLI, EMAIL)
    await service.accounts.enable(CLI, EMAIL)
    async with database.connection() as conn:
        stored = await conn.fetchval("SELECT password_hash FROM users")
        rows = await conn.fetch("SELECT * FROM audit_events")
    text = json.dumps([dict(row) for row in rows], default=str)
    assert Counter(row["type"] for row in rows)["user.register"] == 1
    assert str(user_id) in text
    for secret in (EMAIL, EMAIL.lower(), PASSWORD, stored):
        assert secret not in text


def test_registration_repr_hides_password() -> None:
    assert PASSWORD not in repr(Registration(EMAIL, PASSWORD))


async def _disable(service: Service, user_id: UserId) -> str:
    await service.accounts.disable(CLI, user_id)
    return "disabled"
