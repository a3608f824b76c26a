"""Accounts as operators look them up: one by id or address, or lists by filters, page by page."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from itertools import product

import pytest
import pytest_asyncio

from authsvc.config import BruteForceSettings
from authsvc.core.accounts import listing as module
from authsvc.core.accounts.listing import AccountListing
from authsvc.core.attempts.brute_force import BruteForce
from authsvc.core.lib.emails import parse_email
from authsvc.core.lib.ids import uuid7
from authsvc.core.lib.slices import Slices
from authsvc.errors import FieldInvalid, NotFound
from authsvc.models.ids import UserId
from authsvc.models.users import TimeRange, User, UserDetails, UserFilter, UserOrigin, UserStatus
from authsvc.store import user_listing, users
from authsvc.store.postgres.database import Database
from tests.support.accounts import EMAIL, IP, KEYRING, PASSWORD, WRONG
from tests.support.clock import FakeClock
from tests.support.logins import PHONE, Replicas

ANYBODY = UserFilter()
# Every filter, with users who match it and users who don't.
FILTERS = {
    "address": UserFilter(email_prefix="ADA"),
    "role": UserFilter(role="admin"),
    "active": UserFilter(status=UserStatus.ACTIVE),
    "disabled": UserFilter(status=UserStatus.DISABLED),
    "verified": UserFilter(verified=True),
    "unverified": UserFilter(verified=False),
    "provider": UserFilter(provider="github"),
}


def listing_on(
    database: Database, clock: FakeClock, limits: BruteForceSettings | None = None
) -> AccountListing:
    return AccountListing(
        database=database,
        brute_force=BruteForce(database, limits or BruteForceSettings(), KEYRING),
        keyring=KEYRING,
        slices=Slices(),
        clock=clock,
    )


@pytest.fixture
def listing(database: Database, clock: FakeClock) -> AccountListing:
    return listing_on(database, clock)


async def store(database: Database, clock: FakeClock, address: str, **more: object) -> User:
    now = clock.now()
    values: dict[str, object] = {"roles": ("user",), "status": UserStatus.ACTIVE} | more
    user = User(UserId(uuid7(now)), address, "", create_time=now, **values)  # type: ignore[arg-type]
    canonical = parse_email(address).canonical
    async with database.connection() as connection:
        await users.insert(connection, user, email_canonical=canonical, origin=UserOrigin.OPERATOR)
    return user


@pytest_asyncio.fixture
async def crowd(database: Database, clock: FakeClock) -> list[UserDetails]:
    """48 users, of all combinations of what can be filtered; each a second older than the next."""
    kinds = product(("ada", "bob", "eve"), (("user",), ("user", "admin")), UserStatus, (1, 0))
    for number, (name, roles, status, verified) in enumerate([*kinds] * 2):
        clock.advance(timedelta(seconds=1))
        user = await store(
            database,
            clock,
            f"{name}{number:02}@example.test",
            roles=roles,
            status=status,
            email_verify_time=clock.now() if verified else None,
        )
        async with database.connection() as connection:
            if number % 3:
                await users.note_login(connection, user.user_id, clock.now())
            # Two identities at one provider are still one user.
            for subject in range(number % 3):
                await connection.execute(
                    "INSERT INTO identities VALUES ('github', $1, $2, '', now(), now())",
                    f"{number}-{subject}",
                    user.user_id,
                )
    listing = listing_on(database, clock)
    return list((await listing.list(ANYBODY, 1_000, "")).users)


async def pages(listing: AccountListing, wanted: UserFilter, size: int) -> list[UserDetails]:
    """Return all users of a list, page by page."""
    found: list[UserDetails] = []
    token = ""
    while True:
        page = await listing.list(wanted, size, token)
        assert len(page.users) <= size
        found += page.users
        token = page.next_page_token
        if not token:
            return found


def matching(crowd: Sequence[UserDetails], wanted: UserFilter) -> set[UserId]:
    """Return the users who match, by plain comparison."""

    def within(time: object, span: TimeRange) -> bool:
        if not any(span):
            return True
        return (
            time is not None
            and (span.start is None or time >= span.start)  # type: ignore[operator]
            and (span.end is None or time < span.end)  # type: ignore[operator]
        )

    return {
        user.user_id
        for user in crowd
        if user.email.startswith(wanted.email_prefix.lower())
        and (not wanted.role or wanted.role in user.roles)
        and wanted.status in {None, user.status}
        and wanted.verified in {None, user.email_verify_time is not None}
        and (not wanted.provider or wanted.provider in user.providers)
        and within(user.create_time, wanted.create_time)
        and within(user.last_login_time, wanted.last_login_time)
    }


def ranges(crowd: Sequence[UserDetails]) -> dict[str, UserFilter]:
    """Return ranges of times, each with bounds on the very times of users."""
    times = sorted(user.create_time for user in crowd)
    first, last = times[10], times[30]
    return {
        "created": UserFilter(create_time=TimeRange(first, last)),
        "created from": UserFilter(create_time=TimeRange(first)),
        "created until": UserFilter(create_time=TimeRange(end=last)),
        "logged in": UserFilter(last_login_time=TimeRange(first, last)),
        "logged in until": UserFilter(last_login_time=TimeRange(end=last)),
    }


async def test_each_filter_alone_lists_its_users_once(
    listing: AccountListing, crowd: list[UserDetails]
) -> None:
    assert len(crowd) == 48
    for name, wanted in ({"anybody": ANYBODY} | FILTERS | ranges(crowd)).items():
        expected = matching(crowd, wanted)
        assert expected, name
        for size in (1, 7, len(expected), 1_000):
            found = [user.user_id for user in await pages(listing, wanted, size)]
            assert len(found) == len(set(found)), name
            assert set(found) == expected, name


async def test_filters_are_combined(listing: AccountListing, crowd: list[UserDetails]) -> None:
    span = TimeRange(crowd[5].create_time, crowd[40].create_time)
    combinations = [
        UserFilter("ada", "admin", UserStatus.ACTIVE, verified=True),
        UserFilter(role="admin", status=UserStatus.DISABLED, create_time=span),
        UserFilter(provider="github", verified=False, last_login_time=span),
        UserFilter(status=UserStatus.DISABLED, verified=False),
        UserFilter(create_time=span, last_login_time=span, role="admin"),
        UserFilter("zoe", "admin"),
        UserFilter("bob", "admin", UserStatus.ACTIVE, verified=True, provider="github"),
    ]
    for wanted in combinations:
        found = [user.user_id for user in await pages(listing, wanted, 2)]
        assert len(found) == len(set(found))
        assert set(found) == matching(crowd, wanted)


async def test_combination_that_takes_too_long_ends_with_token_to_go_on(
    listing: AccountListing, crowd: list[UserDetails], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SCANNED_ROWS", 2)
    monkeypatch.setattr(module, "_SCAN_SECONDS", 0)
    wanted = UserFilter("ada", status=UserStatus.DISABLED)
    first = await listing.list(wanted, 1, "")
    assert (len(first.users), bool(first.next_page_token)) == (0, True)
    assert {user.user_id for user in await pages(listing, wanted, 1)} == matching(crowd, wanted)


async def test_page_reads_no_more_rows_wherever_it_is(
    database: Database, crowd: list[UserDetails]
) -> None:
    """Each filter alone is answered by its own index, in its order, without a sort."""
    expected = {
        "anybody": "users_pkey",
        "address": "users_by_address",
        "role": "user_roles_pkey",
        "active": "users_by_status",
        "disabled": "users_by_status",
        "verified": "users_by_verification",
        "unverified": "users_by_verification",
        "provider": "identities_by_provider",
        "created": "users_by_creation",
        "logged in": "users_by_last_login",
    }
    filters = {"anybody": ANYBODY} | FILTERS | ranges(crowd)
    async with database.transaction() as connection:
        # As if the tables were large.
        for other in ("seqscan", "bitmapscan", "sort", "incremental_sort"):
            await connection.execute(f"SET LOCAL enable_{other} = off")
        for name, index in expected.items():
            arguments = user_listing._Arguments()
            scan, _ = user_listing._candidates(arguments, filters[name], None)
            plan = "\n".join(
                row[0] for row in await connection.fetch(f"EXPLAIN {scan} LIMIT 5", *arguments)
            )
            assert f"using {index} " in plan, (name, plan)
            assert "Sort" not in plan, (name, plan)


async def test_page_token_is_bound_to_its_filters(
    listing: AccountListing, crowd: list[UserDetails]
) -> None:
    filters = FILTERS | ranges(crowd) | {"anybody": ANYBODY}
    tokens = {
        name: (await listing.list(each, 1, "")).next_page_token for name, each in filters.items()
    }
    for name, wanted in filters.items():
        for other, token in tokens.items():
            if other != name:
                with pytest.raises(FieldInvalid):
                    await listing.list(wanted, 1, token)
    altered = tokens["role"][:-1] + ("A" if tokens["role"][-1] != "A" else "B")
    for token in (altered, "x", "?", tokens["role"][:30]):
        with pytest.raises(FieldInvalid):
            await listing.list(FILTERS["role"], 1, token)


async def test_list_goes_on_where_its_last_user_was_deleted(
    listing: AccountListing, crowd: list[UserDetails], database: Database
) -> None:
    page = await listing.list(FILTERS["role"], 3, "")
    async with database.connection() as connection:
        await connection.execute("DELETE FROM users WHERE user_id = $1", page.users[-1].user_id)
    rest = await listing.list(FILTERS["role"], 1_000, page.next_page_token)
    assert len(rest.users) == len(matching(crowd, FILTERS["role"])) - 3


async def test_account_is_found_by_id_and_address(
    listing: AccountListing, database: Database, clock: FakeClock
) -> None:
    user = await store(database, clock, "Ada@example.com", status=UserStatus.DISABLED)
    for account in (str(user.user_id), user.user_id, "ada@EXAMPLE.com"):
        found = await listing.find(account)
        assert (found.user_id, found.email, found.status) == (
            user.user_id,
            user.email,
            UserStatus.DISABLED,
        )
        assert (found.origin, found.has_password) == (UserOrigin.OPERATOR, False)
        assert (found.lock, found.device_lock) == (None, None)


async def test_roles_are_listed_as_they_are_now(
    listing: AccountListing, database: Database, clock: FakeClock
) -> None:
    user = await store(database, clock, "ada@example.com", roles=("user", "user", "editor"))
    async with database.connection() as connection:
        for roles in (["admin", "editor"], [], ["admin"]):
            await connection.execute("UPDATE users SET roles = $1", roles)
            for role in ("user", "editor", "admin"):
                found = await pages(listing, UserFilter(role=role), 10)
                assert [each.user_id for each in found] == [user.user_id] * (role in roles)


@pytest.mark.parametrize(
    ("account", "said"),
    [
        ("nobody@example.com", "No user has this address."),
        ("00000000-0000-7000-8000-000000000000", "No user has this id."),
        ("nobody", "No user has this id."),
    ],
)
async def test_unknown_account_is_not_found(
    listing: AccountListing, account: str, said: str
) -> None:
    with pytest.raises(NotFound, match=said):
        await listing.find(account)


async def test_malformed_address_is_invalid(listing: AccountListing) -> None:
    with pytest.raises(FieldInvalid):
        await listing.find("@")


async def test_lock_of_account_is_shown_apart_for_strangers_and_known_devices(
    replicas: Replicas, database: Database, clock: FakeClock
) -> None:
    limits = BruteForceSettings.model_validate(
        {
            "per_account": {"requests": 2, "window": "10m"},
            "per_known_device": {"requests": 3, "window": "20m"},
        }
    )
    service = await replicas.start(limits)
    await service.register()
    listing = listing_on(database, clock, limits)
    await service.login(device=PHONE)
    assert (await listing.find(EMAIL)).lock is None

    assert await service.login(WRONG, ip=None) == "CREDENTIALS_INVALID"
    shown = await listing.find(EMAIL)
    assert (shown.failed_logins, shown.failed_device_logins, shown.lock) == (1, 0, None)
    while await service.login(WRONG, ip=None) != "TOO_MANY_ATTEMPTS":
        pass
    shown = await listing.find(EMAIL)
    assert shown.lock is not None
    assert shown.lock.expire_time is not None
    assert timedelta() < shown.lock.expire_time - clock.now() <= timedelta(minutes=10)
    assert shown.device_lock is None

    while await service.login(WRONG, ip=None, device=PHONE) != "TOO_MANY_ATTEMPTS":
        pass
    (listed,) = (await listing.list(ANYBODY, 0, "")).users
    assert listed.device_lock is not None
    assert await service.login(PASSWORD, ip=IP, device=PHONE) == "TOO_MANY_ATTEMPTS"


async def test_lock_by_failures_in_a_row_has_no_end(
    free: object, database: Database, clock: FakeClock
) -> None:
    listing = listing_on(database, clock)
    async with database.connection() as connection:
        await connection.execute("UPDATE users SET failed_logins = 50")
        shown = await listing.find(EMAIL)
        assert shown.lock is not None
        assert (shown.lock.expire_time, shown.device_lock) == (None, None)
        # Then known devices count as unknown.
        await connection.execute("UPDATE users SET failed_device_logins = 50")
    assert (await listing.find(EMAIL)).device_lock == shown.lock


async def test_many_lists_at_once(listing: AccountListing, crowd: list[UserDetails]) -> None:
    found = await asyncio.gather(*(pages(listing, each, 3) for each in FILTERS.values()))
    assert [{user.user_id for user in each} for each in found] == [
        matching(crowd, each) for each in FILTERS.values()
    ]
