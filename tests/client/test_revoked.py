"""What was revoked: compared with a dictionary, and cleaned a part at a time."""

import struct
from collections.abc import Sequence
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.client import revoked as module
from authsvc.client.revoked import Revoked

NOBODY = b"\xff" * 16
NOW = 1_800_000_000


def sweep(revoked: Revoked, now: float) -> None:
    for _ in range(256):
        revoked.sweep(now)


def test_session_refuses_all_its_tokens() -> None:
    revoked, session = Revoked(), uuid4().bytes
    assert not revoked.covers(session, NOBODY, NOW)
    revoked.add_session(session, NOW + 60)
    assert revoked.covers(session, NOBODY, 1)
    assert revoked.covers(session, NOBODY, 2**33)
    assert not revoked.covers(NOBODY, session, 1)


def test_user_refuses_tokens_up_to_the_second() -> None:
    revoked, user = Revoked(), uuid4().bytes
    revoked.add_user(user, NOW, NOW + 60)
    assert revoked.covers(NOBODY, user, NOW)
    assert not revoked.covers(NOBODY, user, NOW + 1)
    assert not revoked.covers(user, NOBODY, NOW)


def test_earlier_event_of_a_user_takes_nothing_back() -> None:
    revoked, user = Revoked(), uuid4().bytes
    revoked.add_user(user, NOW, NOW + 60)
    revoked.add_user(user, NOW - 10, NOW + 600)
    assert len(revoked) == 1
    assert revoked.covers(NOBODY, user, NOW)
    sweep(revoked, NOW + 599)
    assert revoked.covers(NOBODY, user, NOW)


def test_entry_is_removed_when_it_has_expired_and_not_before() -> None:
    revoked, early, late = Revoked(), uuid4().bytes, uuid4().bytes
    revoked.add_session(early, NOW + 0.5)
    revoked.add_user(late, NOW, NOW + 60)
    sweep(revoked, NOW + 0.6)
    assert len(revoked) == 2
    sweep(revoked, NOW + 1)
    assert len(revoked) == 1
    assert not revoked.covers(early, NOBODY, NOW)
    assert revoked.covers(NOBODY, late, NOW)


@pytest.mark.parametrize("expires", [2.0**32, 1e17])
def test_distant_expiry_is_kept(expires: float) -> None:
    revoked, session = Revoked(), uuid4().bytes
    revoked.add_session(session, expires)
    sweep(revoked, NOW)
    assert revoked.covers(session, NOBODY, NOW)


def test_key_that_stands_across_two_records_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MASK", 0)
    revoked = Revoked()
    first, second = uuid4().bytes, uuid4().bytes
    revoked.add_session(first, NOW)
    revoked.add_session(second, NOW)
    across = (struct.pack("<16sII", first, 2**32 - 1, NOW + 1) + second)[10:26]
    assert across in revoked._sessions.shards[0]
    assert not revoked.covers(across, NOBODY, NOW)
    revoked.add_session(across, NOW)
    assert revoked.covers(across, NOBODY, NOW)


KEYS = [bytes([number % 3]) * 15 + bytes([number]) for number in range(12)]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["session", "user", "sweep"]),
        st.sampled_from(KEYS),
        st.integers(1, 50),
        st.integers(1, 50),
    ),
    max_size=60,
)


@given(EVENTS)
def test_it_agrees_with_a_dictionary(events: Sequence[tuple[str, bytes, int, int]]) -> None:
    revoked = Revoked()
    sessions: dict[bytes, int] = {}
    users: dict[bytes, tuple[int, int]] = {}
    for kind, key, second, expires in events:
        match kind:
            case "session":
                revoked.add_session(key, expires)
                sessions[key] = max(sessions.get(key, 0), expires + 1)
            case "user":
                revoked.add_user(key, second, expires)
                earlier = users.get(key, (0, 0))
                users[key] = (max(earlier[0], second), max(earlier[1], expires + 1))
            case _:
                sweep(revoked, expires)
                sessions = {name: end for name, end in sessions.items() if end > expires}
                users = {name: end for name, end in users.items() if end[1] > expires}
        assert len(revoked) == len(sessions) + len(users)
    for key in KEYS:
        assert revoked.covers(key, NOBODY, NOW) == (key in sessions)
        for issued in (1, 25, 50):
            assert revoked.covers(NOBODY, key, issued) == (users.get(key, (0, 0))[0] >= issued)
