"""Listing a user's sessions, page by page."""

import pytest

from authsvc.errors import FieldInvalid
from authsvc.models.ids import SessionId
from tests.support.sessions import CALL, DAY, SECOND, World


async def test_list_returns_active_sessions_newest_first(world: World) -> None:
    replica = world.replica()
    user_id = await world.add_user()
    opened = []
    for _ in range(4):
        opened.append((await world.open(replica, user_id)).session_id)
        world.clock.advance(1)
    await world.open(replica)
    await replica.sessions.ending.revoke(CALL, opened[1])
    page = await replica.sessions.listing.list(user_id, 0, "")
    assert [session.session_id for session in page.sessions] == [opened[3], opened[2], opened[0]]
    assert page.next_page_token == ""
    world.clock.advance(7 * DAY - 2 * SECOND)
    remaining = (await replica.sessions.listing.list(user_id, 0, "")).sessions
    assert [session.session_id for session in remaining] == [opened[3]]


async def test_disabled_user_has_no_active_sessions(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await world.disable(tokens.user_id)
    assert (await replica.sessions.listing.list(tokens.user_id, 0, "")).sessions == []


async def test_pages_neither_skip_nor_repeat_sessions(world: World) -> None:
    replica = world.replica(max_per_user=10)
    user_id = await world.add_user()
    opened = [(await world.open(replica, user_id)).session_id for _ in range(5)]
    seen: list[SessionId] = []
    token, sizes = "", []
    while token or not seen:
        page = await replica.sessions.listing.list(user_id, 2, token)
        seen += [session.session_id for session in page.sessions]
        sizes.append(len(page.sessions))
        token = page.next_page_token
        # A session opened meanwhile is newer than all remaining pages.
        await world.open(replica, user_id)
    assert seen == opened[::-1]
    assert sizes == [2, 2, 1]


async def test_full_last_page_has_no_next_page_token(world: World) -> None:
    replica = world.replica()
    user_id = await world.add_user()
    for _ in range(2):
        await world.open(replica, user_id)
    assert (await replica.sessions.listing.list(user_id, 2, "")).next_page_token == ""


@pytest.mark.parametrize("size", [-1, 1_001])
async def test_page_size_out_of_range_is_rejected(world: World, size: int) -> None:
    with pytest.raises(FieldInvalid) as caught:
        await world.replica().sessions.listing.list(await world.add_user(), size, "")
    assert caught.value.violations[0].field == "page_size"


@pytest.mark.parametrize("change", ["another's", "longer", "shorter", "garbage", "newline"])
async def test_foreign_or_malformed_page_token_is_rejected(world: World, change: str) -> None:
    replica = world.replica()
    user_id = await world.add_user()
    for _ in range(2):
        await world.open(replica, user_id)
    token = (await replica.sessions.listing.list(user_id, 1, "")).next_page_token
    text = {
        "another's": token,
        "longer": f"{token}AAAA",
        "shorter": token[:-4],
        "garbage": "\N{SNOWMAN}!",
        "newline": f"{token}\n",
    }[change]
    asker = await world.add_user() if change == "another's" else user_id
    with pytest.raises(FieldInvalid) as caught:
        await replica.sessions.listing.list(asker, 1, text)
    assert caught.value.violations[0].field == "page_token"
