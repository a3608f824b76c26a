"""What responses of the stream make known, in which order, and what a fork ends."""

import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from authsvc.client.knowledge import Knowledge
from authsvc.client.tokens import uuid_bytes
from authsvc.core.revocations import cursors
from authsvc.core.signing import jwk
from authsvc.models.revocations import RevocationCursor
from authsvc.store.log_reading import Position
from authsvc.v1.session_service_pb2 import Revocation, WatchRevocationsResponse

RUN = UUID(int=7)
NOBODY = b"\xff" * 16
NOW = int(datetime.now(UTC).timestamp())
KEY = jwk.generate("ES256")


@pytest.fixture
def knowledge() -> Knowledge:
    knowledge = Knowledge()
    knowledge.known_until.open(10.0)
    return knowledge


def watch_cursor(xmax: int, *in_progress: int) -> str:
    position = Position(
        run_id=RUN,
        xmax=xmax,
        in_progress=in_progress,
        read_time=datetime(2026, 1, 1, tzinfo=UTC),
        partial=None,
    )
    return cursors.write_watch_cursor(cursors.WatchCursor(position))


def revocation_cursor(transaction: int) -> str:
    return cursors.write_revocation_cursor(RevocationCursor(RUN, transaction))


def event(*, expires: int = NOW + 3600, **subject: str) -> Revocation:
    revocation = Revocation(**subject)  # type: ignore[arg-type]  # one of its subjects
    revocation.revoke_time.FromMilliseconds(NOW * 1000 + 999)
    revocation.expire_time.FromSeconds(expires)
    return revocation


def response(
    *events: Revocation, at: float = NOW, complete: bool = True, cursor: str = ""
) -> WatchRevocationsResponse:
    answer = WatchRevocationsResponse(revocations=events, complete=complete, cursor=cursor)
    answer.known_until_time.FromNanoseconds(int(at * 1e9))
    return answer


def test_events_refuse_sessions_users_and_keys(knowledge: Knowledge) -> None:
    session, user = str(uuid4()), str(uuid4())
    knowledge.keys.install(json.dumps({"keys": [KEY.public_jwk]}), 3600, 10.0)
    knowledge.receive(
        response(
            event(session_id=session),
            event(user_id=user),
            event(key_id=KEY.key_id),
            event(api_key_id=str(uuid4())),
            Revocation(),
        ),
        10.1,
    )
    assert knowledge.revoked.covers(uuid_bytes(session), NOBODY, NOW + 10)
    assert knowledge.revoked.covers(NOBODY, uuid_bytes(user), NOW)
    assert not knowledge.revoked.covers(NOBODY, uuid_bytes(user), NOW + 1)
    assert knowledge.keys.find(KEY.key_id) is None
    assert len(knowledge.revoked) == 2


def test_events_count_before_their_response_is_complete(knowledge: Knowledge) -> None:
    session = str(uuid4())
    knowledge.receive(response(event(session_id=session), complete=False), 10.1)
    assert knowledge.revoked.covers(uuid_bytes(session), NOBODY, NOW)
    assert knowledge.known_until.time == float("-inf")


def test_unreadable_event_makes_nothing_known(knowledge: Knowledge) -> None:
    with pytest.raises(ValueError, match="hex"):
        knowledge.receive(response(event(session_id="no UUID"), cursor="next"), 10.1)
    assert knowledge.known_until.time == float("-inf")
    assert knowledge.cursor == ""


def test_it_is_usable_with_keys_and_a_complete_list(knowledge: Knowledge) -> None:
    assert not knowledge.is_usable(10.2)
    knowledge.receive(response(), 10.1)
    assert not knowledge.is_usable(10.2)
    knowledge.keys.install(json.dumps({"keys": [KEY.public_jwk]}), 3600, 10.0)
    assert knowledge.is_usable(10.2)
    knowledge.begin_anew()
    assert not knowledge.is_usable(10.2)
    knowledge.receive(response(complete=False), 10.3)
    assert not knowledge.is_usable(10.2)
    knowledge.receive(response(), 10.4)
    assert knowledge.is_usable(10.5)


def test_beginning_anew_keeps_what_was_revoked(knowledge: Knowledge) -> None:
    session = str(uuid4())
    knowledge.receive(response(event(session_id=session), cursor="one"), 10.1)
    knowledge.begin_anew()
    assert knowledge.cursor == ""
    assert knowledge.revoked.covers(uuid_bytes(session), NOBODY, NOW)


def test_cursors_are_reached_by_complete_responses_alone(knowledge: Knowledge) -> None:
    assert not knowledge.has_reached(revocation_cursor(50))
    knowledge.receive(response(complete=False, cursor=watch_cursor(100)), 10.1)
    assert not knowledge.has_reached(revocation_cursor(50))
    knowledge.receive(response(cursor=watch_cursor(100, 60)), 10.2)
    assert knowledge.has_reached(revocation_cursor(50))
    assert not knowledge.has_reached(revocation_cursor(60))
    assert not knowledge.has_reached(revocation_cursor(100))
    knowledge.receive(response(complete=False, cursor=watch_cursor(200)), 10.3)
    assert not knowledge.has_reached(revocation_cursor(60))


@pytest.mark.parametrize("text", ["", "x", "é", "A" * 300, "of a watcher"])
def test_other_texts_are_never_reached(knowledge: Knowledge, text: str) -> None:
    knowledge.receive(response(cursor=watch_cursor(100)), 10.1)
    if text == "of a watcher":
        text = watch_cursor(5)
    assert not knowledge.has_reached(text)


def fill(knowledge: Knowledge, times: Iterable[float]) -> None:
    """Receive responses at these times of the service until everything was looked at."""
    for at in times:
        for _ in range(256):
            knowledge.receive(response(at=at), 10.2)


def test_expired_entries_go_when_both_clocks_say_so(
    knowledge: Knowledge, monkeypatch: pytest.MonkeyPatch
) -> None:
    knowledge.receive(response(event(session_id=str(uuid4()), expires=NOW + 100)), 10.1)
    later = NOW + 1000
    monkeypatch.setattr("authsvc.client.knowledge.time.time", lambda: float(NOW))
    fill(knowledge, [later])  # the machine's clock does not say so
    assert len(knowledge.revoked) == 1
    monkeypatch.setattr("authsvc.client.knowledge.time.time", lambda: float(later))
    fill(knowledge, [NOW])  # the service's clock does not say so
    assert len(knowledge.revoked) == 1
    fill(knowledge, [later])
    assert len(knowledge.revoked) == 0


_FORK = """
import os
from authsvc.client.knowledge import Knowledge
from authsvc.v1.session_service_pb2 import WatchRevocationsResponse

knowledge = Knowledge()
knowledge.known_until.open(10.0)
knowledge.receive(WatchRevocationsResponse(complete=True), 10.1)
assert knowledge.known_until.time == 10.0
child = os.fork()
if child == 0:
    knows = knowledge.known_until.time > float("-inf")
    os._exit(1 if knows or not knowledge.is_lost else 0)
_, status = os.waitpid(child, 0)
assert knowledge.known_until.time == 10.0
raise SystemExit(os.waitstatus_to_exitcode(status))
"""


def test_child_of_a_fork_knows_nothing() -> None:
    subprocess.run([sys.executable, "-c", _FORK], check=True, timeout=60)


def test_readers_in_other_threads_never_miss_what_is_known() -> None:
    sessions = [uuid4().bytes for _ in range(3_000)]
    knowledge = Knowledge()
    knowledge.known_until.open(0.0)
    stop = threading.Event()
    missed: list[int] = []

    def read() -> None:
        chosen = random.Random(7)
        while not stop.is_set():
            # What is known up to second n has the sessions 0 to n.
            known = int(knowledge.known_until.time) if knowledge.known_until.time >= 0 else 0
            number = chosen.randint(max(0, known - 3), max(0, known))
            if known and not knowledge.revoked.covers(sessions[number], NOBODY, NOW):
                missed.append(number)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            readers = [pool.submit(read) for _ in range(4)]
            for second, session in enumerate(sessions):
                revoked = event(session_id=str(UUID(bytes=session)))
                knowledge.receive(response(revoked, at=NOW + second), float(second))
            stop.set()
            for reader in readers:
                reader.result()
    finally:
        sys.setswitchinterval(interval)
    assert not missed
