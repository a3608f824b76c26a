"""Which tokens of a user are refused: all from before a loss, and none from after it."""

from datetime import UTC, datetime, timedelta

import pytest

from authsvc.core.revocations.user_tokens import is_refused, issue_second, revoke_tokens
from authsvc.store import revocations
from tests.support.sessions import World

_NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


@pytest.mark.parametrize("part", [0, 1, 500_000, 999_999])
def test_tokens_up_to_the_second_are_refused_and_new_ones_are_later(part: int) -> None:
    revoked = _NOON + timedelta(microseconds=part)
    assert is_refused(_NOON - _SECOND, revoked)
    assert is_refused(_NOON, revoked)
    assert not is_refused(_NOON + _SECOND, revoked)
    for later in (revoked, revoked + timedelta(microseconds=1), _NOON + timedelta(hours=1)):
        issued = datetime.fromtimestamp(issue_second(later, revoked), UTC)
        assert not is_refused(issued, revoked)
        assert later - _SECOND < issued <= later + _SECOND


def test_without_a_loss_the_time_of_issue_is_the_time() -> None:
    assert not is_refused(_NOON, None)
    assert issue_second(_NOON + timedelta(milliseconds=999), None) == int(_NOON.timestamp())


async def test_each_loss_within_a_second_refuses_tokens_issued_after_the_one_before(
    world: World,
) -> None:
    user_id = await world.add_user()
    issued = list[datetime]()
    for _ in range(3):
        async with world.database.transaction() as connection:
            revoked = await revoke_tokens(connection, user_id, world.clock.now())
            assert revocations.noted(connection) is not None
        assert all(is_refused(time, revoked) for time in issued)
        issued.append(datetime.fromtimestamp(issue_second(world.clock.now(), revoked), UTC))
        assert not is_refused(issued[-1], revoked)
    logged = await world.fetch(
        "SELECT revoke_time, cache_only FROM revocations ORDER BY revocation_id"
    )
    [stored] = await world.fetch("SELECT token_revoke_time FROM users")
    assert logged[-1]["revoke_time"] == stored["token_revoke_time"] == revoked
    assert {row["cache_only"] for row in logged} == {False}


async def test_loss_counts_as_later_than_any_replica_can_have_issued_a_token_before_it(
    world: World,
) -> None:
    # Another replica's clock may be a few milliseconds ahead, and already in the next second.
    user_id = await world.add_user()
    late = _NOON - timedelta(milliseconds=5)
    async with world.database.transaction() as connection:
        revoked = await revoke_tokens(connection, user_id, late)
    assert is_refused(_NOON, revoked)


async def test_what_a_transaction_revokes_is_forgotten_with_it(world: World) -> None:
    user_id = await world.add_user()
    async with world.database.transaction() as connection:
        assert revocations.noted(connection) is None
        await revocations.append(connection, _NOON, user_id=user_id)
        cursor = revocations.noted(connection)
        assert cursor == await revocations.cursor_of_now(connection)
    async with world.database.transaction() as connection:
        assert revocations.noted(connection) is None
        later = await revocations.cursor_of_now(connection)
    assert cursor is not None
    assert (later.run_id, later.transaction > cursor.transaction) == (cursor.run_id, True)
