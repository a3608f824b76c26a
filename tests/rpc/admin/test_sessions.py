"""AdminService.RevokeAllSessions over mutual TLS: its criteria, its counts, and what it records."""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from authsvc.v1.admin_service_pb2 import RevokeAllSessionsRequest
from authsvc.v1.session_service_pb2 import REVOKE_REASON_REVOKED
from tests.rpc.admin.test_impersonation import impersonate
from tests.support.clock import FakeClock
from tests.support.probe import failure, identity_of, outcome, reason_of
from tests.support.service import Service, fields_of

NOBODY = str(UUID(int=1))


async def revoke_all(service: Service, **request: Any) -> int:
    response = await service.admin().RevokeAllSessions(RevokeAllSessionsRequest(**request))
    return response.revoked_count


async def left(service: Service) -> set[str]:
    """Return the ids of the sessions that have not been ended."""
    rows = await service.fetch("SELECT session_id FROM sessions WHERE revoke_time IS NULL")
    return {str(row["session_id"]) for row in rows}


@pytest.mark.fast
async def test_all_sessions_of_all_users_end(service: Service) -> None:
    ada = await service.new_session("ada@example.test")
    bob = await service.new_session("bob@example.test")
    again = await service.login("bob@example.test")
    everybody = [ada, bob, again]
    for tokens in everybody:
        assert await service.judge_session(tokens.session_token) == ""
    assert await revoke_all(service, all=True, dry_run=True) == 3
    assert len(await left(service)) == 3
    assert await revoke_all(service, all=True) == 3
    for tokens in everybody:
        assert await service.judge_session(tokens.session_token) == "SESSION_REVOKED"
        assert await service.judge_token(tokens.access_token) == "SESSION_REVOKED"
        assert await outcome(service.refresh(tokens.refresh_token)) == "REFRESH_TOKEN_INVALID"
    assert (await service.get_session(ada.session_id)).revoke_reason == REVOKE_REASON_REVOKED
    log = await service.fetch("SELECT session_id FROM revocations")
    assert sorted(str(row["session_id"]) for row in log) == sorted(
        tokens.session_id for tokens in everybody
    )
    assert await revoke_all(service, all=True) == 0
    assert len(await service.fetch("SELECT FROM revocations")) == 3


async def test_events_name_caller_and_belong_to_users(service: Service) -> None:
    ada = await service.new_session("ada@example.test")
    bob = await service.new_session("bob@example.test")
    again = await service.login("bob@example.test")
    await revoke_all(service, authentication_method="pwd")
    events = await service.fetch(
        "SELECT user_id, caller, detail FROM audit_events WHERE type = 'session.revoke'"
    )
    assert {row["caller"] for row in events} == {identity_of("admin")}
    found = {str(row["user_id"]): json.loads(row["detail"]) for row in events}
    assert len(events) == 2
    assert found[ada.user_id] == {"reason": "revoked", "sessions": [ada.session_id]}
    assert set(found[bob.user_id]["sessions"]) == {bob.session_id, again.session_id}
    whole = await service.fetch(
        "SELECT caller, detail FROM audit_events WHERE type = 'session.revoke_all'"
        " ORDER BY event_id"
    )
    assert {row["caller"] for row in whole} == {identity_of("admin")}
    assert [json.loads(row["detail"]) for row in whole] == [
        {"stage": "begin", "authentication_method": "pwd"},
        {"stage": "end", "count": 3},
    ]


async def test_sessions_are_chosen_by_age(timed: Service, clock: FakeClock) -> None:
    old = await timed.new_session("ada@example.test")
    clock.advance(timedelta(hours=1))
    time = Timestamp()
    time.FromDatetime(clock.now())
    exact = await timed.login("ada@example.test")
    clock.advance(timedelta(hours=1))
    new = await timed.login("ada@example.test")
    assert await revoke_all(timed, created_before_time=time, dry_run=True) == 1
    assert await revoke_all(timed, created_after_time=time, dry_run=True) == 2
    assert await revoke_all(timed, created_before_time=time) == 1
    assert await left(timed) == {exact.session_id, new.session_id}
    assert await revoke_all(timed, created_after_time=time, created_before_time=time) == 0
    later = Timestamp(seconds=time.seconds + 1)
    assert await revoke_all(timed, created_after_time=time, created_before_time=later) == 1
    assert await left(timed) == {new.session_id}
    assert old.session_id not in await left(timed)


@pytest.mark.parametrize(
    ("network", "ended"),
    [
        ("192.0.2.7", {0}),
        ("192.0.2.0/24", {0, 1}),
        ("::ffff:192.0.2.7", {0}),
        ("2001:db8::/32", {2}),
        ("0.0.0.0/0", {0, 1}),
        ("::/0", {2}),
        ("198.51.100.0/24", set()),
    ],
)
async def test_sessions_are_chosen_by_network(
    network: str, ended: set[int], service: Service
) -> None:
    await service.register()
    opened = [await service.login(ip=ip) for ip in ("192.0.2.7", "192.0.2.8", "2001:db8:1::1", "")]
    assert await revoke_all(service, network=network, dry_run=True) == len(ended)
    assert await revoke_all(service, network=network) == len(ended)
    kept = {tokens.session_id for at, tokens in enumerate(opened) if at not in ended}
    assert await left(service) == kept


async def test_sessions_are_chosen_by_method_user_and_impersonation(service: Service) -> None:
    ada = await service.register("ada@example.test")
    bob = await service.register("bob@example.test")
    by_key = await service.create_session(ada, "hwk", "mfa")
    by_word = await service.create_session(ada, "pwd")
    of_bob = await service.create_session(bob, "pwd")
    of_admin = await impersonate(service, bob)
    assert await revoke_all(service, authentication_method="mfa", dry_run=True) == 1
    assert await revoke_all(service, user_ids=[ada, NOBODY], dry_run=True) == 2
    assert await revoke_all(service, authentication_method="pwd", user_ids=[ada]) == 1
    assert await left(service) == {by_key.session_id, of_bob.session_id, of_admin.session_id}
    assert await revoke_all(service, impersonated_only=True) == 1
    assert await left(service) == {by_key.session_id, of_bob.session_id}
    assert await service.judge_token(by_word.access_token) == "SESSION_REVOKED"
    assert await service.judge_token(of_admin.access_token) == "SESSION_REVOKED"


async def test_idle_session_ends_uncounted(timed: Service, clock: FakeClock) -> None:
    # Its access token may still be valid.
    tokens = await timed.new_session()
    clock.advance(timedelta(days=8))
    assert await revoke_all(timed, all=True, dry_run=True) == 0
    assert await revoke_all(timed, all=True) == 0
    session = await timed.get_session(tokens.session_id)
    assert session.revoke_reason == REVOKE_REASON_REVOKED


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({}, ""),
        ({"dry_run": True}, ""),
        ({"all": True, "authentication_method": "pwd"}, "all"),
        ({"all": True, "user_ids": [NOBODY]}, "all"),
        ({"all": True, "created_before_time": Timestamp(seconds=1)}, "all"),
        ({"all": True, "impersonated_only": True}, "all"),
        ({"network": "192.0.2.7/24"}, "network"),
        ({"network": "192.0.2.0/33"}, "network"),
        ({"network": "fe80::1%eth0"}, "network"),
        ({"network": "example.test"}, "network"),
        ({"network": " 192.0.2.7"}, "network"),
        ({"network": "1" * 100}, "network"),
        ({"authentication_method": "PWD"}, "authentication_method"),
        ({"user_ids": [NOBODY, "x"]}, "user_ids[1]"),
        ({"user_ids": [NOBODY] * 1_001}, "user_ids"),
        ({"created_before_time": Timestamp(seconds=1 << 60)}, "created_before_time"),
        ({"created_after_time": Timestamp(seconds=-(1 << 60))}, "created_after_time"),
        ({"created_after_time": Timestamp(nanos=-1)}, "created_after_time"),
    ],
)
async def test_invalid_criteria_end_nothing(
    request_: dict[str, Any], field: str, service: Service
) -> None:
    tokens = await service.new_session()
    error = await failure(revoke_all(service, **request_))
    assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", [field])
    assert await service.judge_session(tokens.session_token, strict=True) == ""


@pytest.mark.parametrize("seconds", [-62_135_596_800, 253_402_300_799])
async def test_extreme_times_are_accepted(seconds: int, service: Service) -> None:
    await service.new_session()
    time = Timestamp(seconds=seconds)
    ancient = seconds < 0
    assert await revoke_all(service, created_before_time=time, dry_run=True) == (not ancient)
    assert await revoke_all(service, created_after_time=time) == ancient
    assert await revoke_all(service, created_before_time=time) == (not ancient)
