"""Opening, listing and ending sessions."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from authsvc.config import TokenSettings
from authsvc.core.lib.ids import uuid7
from authsvc.core.sessions.secrets import is_session_token
from authsvc.core.signing.signer import Signer
from authsvc.errors import NotFound, Reason, StoreUnavailable
from authsvc.models.calls import ClientContext
from authsvc.models.ids import SessionId, UserId
from authsvc.models.sessions import RevokeReason
from authsvc.models.tokens import InactiveReason
from authsvc.store import sessions as store
from authsvc.store.postgres.database import Connection
from tests.support.sessions import CALL, CLIENT, DAY, METHODS, World
from tests.support.tokens import unreachable

_WAITING = (
    "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


async def test_session_records_how_it_was_opened(world: World) -> None:
    replica = world.replica()
    user_id = await world.add_user()
    tokens = await replica.sessions.opening.create(CALL, user_id, CLIENT, ("pwd", "otp"))
    session = await replica.sessions.listing.get(tokens.session_id)
    now = world.clock.now()
    assert session.user_id == tokens.user_id == user_id
    assert session.client == CLIENT
    assert session.authentication_methods == ("pwd", "otp")
    assert session.create_time == session.last_use_time == session.authentication_time == now
    assert session.idle_expire_time == tokens.refresh_token_expire_time == now + 7 * DAY
    assert session.absolute_expire_time == now + 30 * DAY
    assert session.revoke_time is None
    assert session.revoke_reason is None


async def test_only_digests_of_session_secrets_are_stored(world: World) -> None:
    tokens = await world.open(world.replica())
    row = await world.row(tokens.session_id)
    assert row["token_hash"] == hashlib.sha256(tokens.session_token.encode()).digest()
    assert row["csrf_hash"] == hashlib.sha256(tokens.csrf_token.encode()).digest()
    assert is_session_token(tokens.session_token)


async def test_secrets_are_hidden_in_repr(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    result = await replica.validate(tokens.session_token, csrf_token=tokens.csrf_token)
    text = repr((tokens, result, await world.events("session.create")))
    for secret in (tokens.session_token, tokens.csrf_token, tokens.refresh_token):
        assert secret not in text
        assert repr(hashlib.sha256(secret.encode()).digest()) not in text


async def test_each_authentication_opens_a_new_session(world: World) -> None:
    replica = world.replica()
    user_id = await world.add_user()
    first, second = [await world.open(replica, user_id) for _ in range(2)]
    assert first.session_id != second.session_id
    assert first.session_token != second.session_token
    assert first.csrf_token != second.csrf_token
    assert (await replica.validate(first.session_token)).active
    assert (await replica.validate(second.session_token)).active


async def test_idle_lifetime_is_capped_by_absolute_expiry(world: World) -> None:
    tokens = await world.open(world.replica(absolute_lifetime="1d"))
    assert tokens.refresh_token_expire_time == world.clock.now() + DAY


@pytest.mark.parametrize("disabled", [True, False])
async def test_disabled_or_unknown_user_gets_no_session(world: World, disabled: bool) -> None:
    user_id = UserId(uuid7(world.clock.now()))
    if disabled:
        user_id = await world.add_user()
        await world.disable(user_id)
    with pytest.raises(NotFound) as caught:
        await world.open(world.replica(), user_id)
    assert caught.value.reason is Reason.USER_NOT_FOUND
    assert await world.active(user_id) == []


async def test_access_token_contains_roles_of_user(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica, await world.add_user(["editor"]))
    claims = await replica.tokens.bearer(tokens.access_token)
    assert claims.roles == ("editor",)
    assert claims.session_id == tokens.session_id


async def test_opening_is_rolled_back_with_caller_transaction(world: World) -> None:
    replica = world.replica()
    user_id = await world.add_user()
    with pytest.raises(_Undone):
        async with _undone_transaction(world) as connection:
            await replica.sessions.opening.open(connection, CALL, user_id, CLIENT, METHODS)
    assert await world.active(user_id) == []
    assert await world.events("session.create") == []


async def test_session_whose_token_cannot_be_signed_is_not_stored_and_ends_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = world.replica(max_per_user=1)
    user_id = await world.add_user()
    opened = await world.open(replica, user_id)
    monkeypatch.setattr(Signer, "sign", unreachable)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await world.open(replica, user_id)
    assert await world.active(user_id) == [opened.session_id]
    assert len(await world.events("session.create")) == 1


async def test_session_limit_ends_oldest_session(world: World) -> None:
    replica = world.replica(max_per_user=3)
    user_id = await world.add_user()
    opened = []
    for _ in range(4):
        opened.append((await world.open(replica, user_id)).session_id)
        world.clock.advance(1)
    assert await world.active(user_id) == opened[1:]
    ended = await replica.sessions.listing.get(opened[0])
    assert ended.revoke_reason is RevokeReason.REPLACED
    assert await world.revoked() == opened[:1]
    details = [json.loads(event["detail"]) for event in await world.events("session.create")]
    assert [detail["replaced"] for detail in details] == [[], [], [], [str(opened[0])]]


async def test_opening_is_logged_with_ended_sessions(world: World) -> None:
    replica = world.replica(max_per_user=1)
    user_id = await world.add_user()
    first = await world.open(replica, user_id)
    with capture_logs() as logs:
        second = await world.open(replica, user_id)
    (line,) = logs
    assert (line["type"], line["session_id"]) == ("session.create", str(second.session_id))
    assert line["detail"]["replaced"] == [str(first.session_id)]


async def test_ended_session_does_not_count_toward_limit(world: World) -> None:
    replica = world.replica(max_per_user=2)
    user_id = await world.add_user()
    kept, ended = [(await world.open(replica, user_id)).session_id for _ in range(2)]
    await replica.sessions.ending.revoke(CALL, ended)
    newest = (await world.open(replica, user_id)).session_id
    assert await world.active(user_id) == [kept, newest]


async def test_expired_session_does_not_count_toward_limit(world: World) -> None:
    replica = world.replica(max_per_user=2)
    user_id = await world.add_user()
    for _ in range(2):
        await world.open(replica, user_id)
    world.clock.advance(7 * DAY)
    await world.open(replica, user_id)
    assert await world.revoked() == []


@pytest.mark.slow
async def test_concurrent_logins_leave_exactly_the_allowed_sessions(world: World) -> None:
    replicas = [world.replica(max_per_user=5) for _ in range(2)]
    user_id = await world.add_user()
    opened = await asyncio.gather(*(world.open(replicas[turn % 2], user_id) for turn in range(100)))
    active = await world.active(user_id)
    assert len(active) == 5
    everyone = sorted(tokens.session_id for tokens in opened)
    assert sorted([*active, *await world.revoked()]) == everyone


async def test_session_ended_meanwhile_is_not_replaced(world: World) -> None:
    replica = world.replica(max_per_user=1)
    user_id = await world.add_user()
    oldest = (await world.open(replica, user_id)).session_id
    async with world.database.transaction() as connection:
        await store.revoke(connection, oldest, world.clock.now(), RevokeReason.LOGOUT)
        opening = asyncio.create_task(world.open(replica, user_id))
        await _until_someone_waits_for_a_lock(world)
    newest = (await opening).session_id
    assert await world.active(user_id) == [newest]
    assert (await world.row(oldest))["revoke_reason"] == RevokeReason.LOGOUT
    assert await world.revoked() == []


async def test_session_limit_is_per_user(world: World) -> None:
    replica = world.replica(max_per_user=1)
    first, second = await world.open(replica), await world.open(replica)
    assert (await replica.validate(first.session_token)).active
    assert (await replica.validate(second.session_token)).active


async def test_unknown_session_is_not_found(world: World) -> None:
    replica = world.replica()
    unknown = SessionId(uuid7(world.clock.now()))
    for action in (
        replica.sessions.listing.get(unknown),
        replica.sessions.ending.revoke(CALL, unknown),
    ):
        with pytest.raises(NotFound) as caught:
            await action
        assert caught.value.reason is Reason.SESSION_NOT_FOUND


async def test_session_is_revoked_once(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await replica.sessions.ending.revoke(CALL, tokens.session_id)
    time = world.clock.now()
    world.clock.advance(1)
    await replica.sessions.ending.revoke(CALL, tokens.session_id)
    session = await replica.sessions.listing.get(tokens.session_id)
    assert session.revoke_time == time
    assert session.revoke_reason is RevokeReason.REVOKED
    assert await world.revoked() == [tokens.session_id]
    events = await world.events("session.revoke")
    assert [event["session_id"] for event in events] == [tokens.session_id]


@pytest.mark.slow
async def test_concurrent_revocations_are_recorded_once(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await asyncio.gather(
        *(replica.sessions.ending.revoke(CALL, tokens.session_id) for _ in range(20))
    )
    assert await world.revoked() == [tokens.session_id]
    assert len(await world.events("session.revoke")) == 1


async def test_all_sessions_but_one_can_be_ended(world: World) -> None:
    replica = world.replica()
    user_id = await world.add_user()
    opened = [await world.open(replica, user_id) for _ in range(3)]
    stranger = await world.open(replica)
    spared = opened[1].session_id
    assert (await replica.sessions.ending.revoke_all(CALL, user_id, spared)).count == 2
    assert await world.active(user_id) == [spared]
    assert (await replica.validate(stranger.session_token)).active
    assert sorted(await world.revoked()) == [opened[0].session_id, opened[2].session_id]
    assert (await replica.sessions.ending.revoke_all(CALL, user_id, spared)).count == 0
    assert len(await world.events("session.revoke")) == 1


async def test_ending_all_counts_active_and_ends_expired_sessions(world: World) -> None:
    # The expired session may have an access token that is still valid.
    replica = world.replica(tokens=TokenSettings.model_validate({"refresh_lifetime": "1m"}))
    user_id = await world.add_user()
    expired = await world.open(replica, user_id)
    world.clock.advance(60)
    await world.open(replica, user_id)
    assert (await replica.tokens.bearer(expired.access_token)).session_id == expired.session_id
    assert (await replica.sessions.ending.revoke_all(CALL, user_id)).count == 1
    assert await world.active(user_id) == []


async def test_ending_all_sessions_of_user_without_any_ends_none(world: World) -> None:
    replica = world.replica()
    unknown = UserId(uuid7(world.clock.now()))
    assert (await replica.sessions.ending.revoke_all(CALL, await world.add_user())).count == 0
    assert (await replica.sessions.ending.revoke_all(CALL, unknown)).count == 0


async def test_concurrently_opened_session_does_not_survive_ending_all(world: World) -> None:
    replica = world.replica()
    user_id = await world.add_user()
    async with world.database.transaction() as connection:
        tokens = await replica.sessions.opening.open(connection, CALL, user_id, CLIENT, METHODS)
        ending = asyncio.create_task(replica.sessions.ending.revoke_all(CALL, user_id))
        await _until_someone_waits_for_a_lock(world)
    assert (await ending).count == 1
    assert await world.revoked() == [tokens.session_id]


async def test_sessions_of_disabled_user_end_in_caller_transaction(world: World) -> None:
    replica = world.replica()
    user_id = await world.add_user()
    tokens = await world.open(replica, user_id)
    with pytest.raises(_Undone):
        async with _undone_transaction(world) as connection:
            await replica.sessions.ending.revoke_in(
                connection, CALL, user_id, RevokeReason.USER_DISABLED
            )
    assert (await replica.validate(tokens.session_token)).active
    async with world.database.transaction() as connection:
        await replica.sessions.ending.revoke_in(
            connection, CALL, user_id, RevokeReason.USER_DISABLED
        )
    session = await replica.sessions.listing.get(tokens.session_id)
    assert session.revoke_reason is RevokeReason.USER_DISABLED


async def test_logout_accepts_any_refresh_token_of_session(world: World) -> None:
    replica = world.replica()
    old = await world.open(replica)
    await replica.refresh(old.refresh_token)
    world.clock.advance(DAY)
    await replica.sessions.ending.log_out(CALL, old.refresh_token)
    session = await replica.sessions.listing.get(old.session_id)
    assert session.revoke_reason is RevokeReason.LOGOUT
    await replica.sessions.ending.log_out(CALL, old.refresh_token)
    assert await world.revoked() == [old.session_id]
    assert len(await world.events("session.logout")) == 1
    result = await replica.validate(old.session_token)
    assert result.reason is InactiveReason.SESSION_REVOKED


async def test_audit_events_record_caller_and_client(world: World) -> None:
    replica = world.replica()
    client = ClientContext("2001:db8::1", "Browser/2", "tablet")
    user_id = await world.add_user()
    tokens = await replica.sessions.opening.create(CALL, user_id, client, METHODS)
    (event,) = await world.events("session.create")
    assert (event["user_id"], event["session_id"]) == (user_id, tokens.session_id)
    assert (event["caller"], event["request_id"]) == (CALL.caller, CALL.request_id)
    assert (str(event["ip"]), event["user_agent"]) == ("2001:db8::1", "Browser/2")
    assert event["occur_time"] == world.clock.now()


async def _until_someone_waits_for_a_lock(world: World) -> None:
    async with asyncio.timeout(30):
        while not await world.fetch(_WAITING):  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)


class _Undone(Exception):
    """Rolls back a transaction."""


@asynccontextmanager
async def _undone_transaction(world: World) -> AsyncIterator[Connection]:
    async with world.database.transaction() as connection:
        yield connection
        raise _Undone
