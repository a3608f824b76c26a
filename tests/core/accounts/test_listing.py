"""Accounts as operators look them up: one by id or address, or all by page."""

import pytest

from authsvc.core.accounts.listing import AccountListing
from authsvc.core.lib.clock import SystemClock
from authsvc.core.lib.emails import parse_email
from authsvc.core.lib.ids import uuid7
from authsvc.errors import FieldInvalid, NotFound
from authsvc.models.ids import UserId
from authsvc.models.users import User, UserOrigin, UserStatus
from authsvc.store import users
from authsvc.store.postgres.database import Database


@pytest.fixture
def listing(database: Database) -> AccountListing:
    return AccountListing(database)


async def store(database: Database, address: str) -> User:
    now = SystemClock().now()
    user = User(UserId(uuid7(now)), address, "", ("user",), UserStatus.DISABLED, now)
    canonical = parse_email(address).canonical
    async with database.connection() as connection:
        await users.insert(connection, user, email_canonical=canonical, origin=UserOrigin.OPERATOR)
    return user


async def test_accounts_are_listed_by_page(listing: AccountListing, database: Database) -> None:
    assert await listing.list(None, 2) == []
    stored = [await store(database, f"user{number}@example.com") for number in range(3)]
    stored.sort(key=lambda user: user.user_id)
    first = await listing.list(None, 2)
    assert first == stored[:2]
    assert await listing.list(first[-1].user_id, 2) == stored[2:]


async def test_account_is_found_by_id_and_address(
    listing: AccountListing, database: Database
) -> None:
    user = await store(database, "Ada@example.com")
    for account in (str(user.user_id), "ada@EXAMPLE.com"):
        assert await listing.find(account) == user


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
