"""Receipts: the same request again creates nothing, and another one with its id is refused."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from authsvc.config import RetentionSettings
from authsvc.core.audit.request_receipts import CreateRequest, RequestReceipts
from authsvc.core.lib.sealing import Keyring
from authsvc.core.retention.cleanup import Retention
from authsvc.errors import FieldInvalid, Reason
from authsvc.store.postgres.database import Database
from tests.support.accounts import KEYRING, key
from tests.support.clock import FakeClock

REQUEST = CreateRequest(UUID("0b7e1f0e-7d3c-4b8e-9a53-1d3c8f5f0001"), b"CreateThing\0a thing")
OTHER = CreateRequest(REQUEST.request_id, b"CreateThing\0another thing")


@pytest.fixture
def receipts(database: Database, clock: FakeClock) -> RequestReceipts:
    return RequestReceipts(database, KEYRING, clock)


async def create(
    receipts: RequestReceipts, database: Database, request: CreateRequest | None
) -> tuple[str, bool]:
    """Create a thing; return its id, and whether this call created it."""
    made = str(uuid4())
    async with database.transaction() as connection:
        earlier = await receipts.claim(connection, request, made)
    return earlier or made, earlier is None


async def test_same_request_again_is_answered_with_what_it_made(
    receipts: RequestReceipts, database: Database
) -> None:
    assert await receipts.find(REQUEST) is None
    made, is_new = await create(receipts, database, REQUEST)
    assert is_new
    assert await create(receipts, database, REQUEST) == (made, False)
    assert await receipts.find(REQUEST) == made


async def test_another_request_with_the_same_id_is_refused(
    receipts: RequestReceipts, database: Database
) -> None:
    await create(receipts, database, REQUEST)
    for refused in (create(receipts, database, OTHER), receipts.find(OTHER)):
        with pytest.raises(FieldInvalid) as error:
            await refused
        assert error.value.reason is Reason.REQUEST_ID_REUSED


async def test_requests_without_an_id_are_all_new(
    receipts: RequestReceipts, database: Database
) -> None:
    created = [await create(receipts, database, None) for _ in range(3)]
    assert len(set(created)) == 3
    assert await receipts.find(None) is None


async def test_failed_creation_leaves_no_receipt(
    receipts: RequestReceipts, database: Database
) -> None:
    async def fail() -> None:
        async with database.transaction() as connection:
            await receipts.claim(connection, REQUEST, "made")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await receipts.find(REQUEST) is None


async def test_many_at_once_create_one_thing(receipts: RequestReceipts, database: Database) -> None:
    created = await asyncio.gather(*(create(receipts, database, REQUEST) for _ in range(20)))
    assert len({made for made, _ in created}) == 1
    assert sum(is_new for _, is_new in created) == 1


async def test_receipt_is_recognized_after_the_keyring_got_a_new_key(
    receipts: RequestReceipts, database: Database, clock: FakeClock
) -> None:
    made, _ = await create(receipts, database, REQUEST)
    rotated = RequestReceipts(database, Keyring([key("k2"), key("k1")]), clock)
    assert await rotated.find(REQUEST) == made


async def test_receipts_are_kept_for_a_day(
    receipts: RequestReceipts, database: Database, clock: FakeClock
) -> None:
    retention = Retention(database=database, settings=RetentionSettings(), clock=clock)
    await create(receipts, database, REQUEST)
    clock.advance(timedelta(days=1))
    assert (await retention.run_once())["request_receipts"] == 0
    clock.advance(timedelta(seconds=1))
    assert (await retention.run_once())["request_receipts"] == 1
    assert await receipts.find(REQUEST) is None
