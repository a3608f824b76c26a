"""Started logins at other providers: each can be completed once, and before it expires."""

from datetime import timedelta

from authsvc.core.lib.ids import uuid7
from authsvc.models.ids import SessionId
from authsvc.store import oauth_states
from authsvc.store.oauth_states import StateRow
from authsvc.store.postgres.database import Database
from tests.support.sessions import CALL, World
from tests.support.stored import NOW

MINUTE = timedelta(minutes=1)


def _state(state_hash: bytes, session_id: SessionId | None = None) -> StateRow:
    return StateRow(state_hash, "acme", "https://app.example/callback", b"sealed", session_id)


async def test_state_is_claimed_once(database: Database) -> None:
    async with database.connection() as connection:
        states = [_state(b"a"), _state(b"b")]
        for state in states:
            assert await oauth_states.insert(connection, state, NOW, NOW + MINUTE)
        assert await oauth_states.claim(connection, b"unknown", NOW) is None
        for state in states:
            assert await oauth_states.claim(connection, state.state_hash, NOW) == state
            assert await oauth_states.claim(connection, state.state_hash, NOW) is None


async def test_state_expires(database: Database) -> None:
    async with database.connection() as connection:
        await oauth_states.insert(connection, _state(b"a"), NOW, NOW + MINUTE)
        assert await oauth_states.claim(connection, b"a", NOW + MINUTE) is None
        before = NOW + MINUTE - timedelta(microseconds=1)
        assert await oauth_states.claim(connection, b"a", before) == _state(b"a")


async def test_identity_is_linked_only_from_session_not_ended(world: World) -> None:
    replica = world.replica()
    live, ended = [(await world.open(replica)).session_id for _ in range(2)]
    await replica.sessions.ending.revoke(CALL, ended)
    unknown = SessionId(uuid7(NOW))
    async with world.database.connection() as connection:
        for number, session_id in enumerate((ended, unknown, live)):
            state = _state(bytes([number]), session_id)
            stored = await oauth_states.insert(connection, state, NOW, NOW + MINUTE)
            assert stored is (session_id == live)
        assert await oauth_states.claim(connection, bytes([2]), NOW) == _state(bytes([2]), live)
