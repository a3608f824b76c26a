"""Users' access to the data held on them: all of it except secrets, and nobody else's."""

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import grpc
import pytest

from authsvc.store import own_data as store
from authsvc.v1.account_service_pb2 import (
    ExportDataRequest,
    ListSecurityEventsRequest,
    ListSecurityEventsResponse,
    SecurityEvent,
    UpdateAccountRequest,
)
from authsvc.v1.common_pb2 import Tokens
from tests.support.accounts import EMAIL, WRONG
from tests.support.clock import FakeClock
from tests.support.databases import backends, until
from tests.support.holdings import OF_NOBODY, columns_of, give_everything, tables_of_users
from tests.support.probe import failure, outcome, reason_of
from tests.support.service import Service, fields_of

TABLES = {
    "user": "users",
    "device": "devices",
    "session": "sessions",
    "identity": "identities",
    "recovery_codes": "recovery_codes",
    "oauth_state": "oauth_states",
    "factor": "factors",
    "one_time_code": "one_time_codes",
    "api_key": "api_keys",
    "session_key": "session_keys",
    "message": "outbox",
    "challenge": "challenges",
    "audit_event": "audit_events",
}
# A copy of users.roles, for lists by role.
COPIES = {"user_roles"}
# Columns that are not exported: secret or unused, or the user's id, which is in the first line.
UNREAD = {
    "users": {"password_hash", "pepper_id"},
    "devices": {"device_hash", "user_id"},
    "sessions": {"token_hash", "csrf_hash", "user_id"},
    "recovery_codes": {"code_hash", "key_id", "user_id"},
    "oauth_states": {"state_hash", "sealed_verifier"},
    "factors": {"sealed_seed", "public_key", "credential_id", "user_id"},
    # The networks are those of whoever tried the code.
    "one_time_codes": {"code_hash", "network_attempts", "user_id"},
    "api_keys": {"key_hash", "user_id"},
    "session_keys": set(),
    "outbox": {"sealed_content", "user_id"},
    "challenges": {"token_hash", "passkey", "sealed_account", "user_id"},
    "identities": {"user_id"},
    # The transaction is the position in the log, for those who follow it.
    "audit_events": {"user_id", "transaction_id"},
}


def bearer(tokens: Tokens) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {tokens.access_token}"),)


async def list_events(
    service: Service, tokens: Tokens, page_size: int = 0, page_token: str = ""
) -> ListSecurityEventsResponse:
    request = ListSecurityEventsRequest(page_size=page_size, page_token=page_token)
    return await service.account().ListSecurityEvents(request, metadata=bearer(tokens))


async def add_events(
    service: Service, user_id: str, count: int, *, at: str = "timestamptz '2029-01-01'"
) -> None:
    """Add events a millisecond apart, two at a time."""
    await service.fetch(
        "INSERT INTO audit_events (event_id, occur_time, type, caller, request_id, user_id, ip)"
        f" SELECT gen_random_uuid(), {at} + n / 2 * interval '1 ms', 'test', 'c', n,"
        " $1, '192.0.2.1' FROM generate_series(1, $2::int) AS n",
        user_id,
        count,
    )


# ListSecurityEvents


@pytest.mark.fast
async def test_events_are_listed_newest_first(timed: Service, clock: FakeClock) -> None:
    await timed.register()
    await timed.register("b@example.test")
    for step in range(3):
        clock.advance(1)
        await outcome(timed.login(password=WRONG, ip=f"192.0.2.{step}", user_agent="Browser/1"))
    clock.advance(1)
    tokens = await timed.login(ip="2001:db8::1")
    answer = await list_events(timed, tokens)
    assert answer.next_page_token == ""
    listed = [(event.type, event.ip, event.user_agent) for event in answer.events]
    assert listed == [
        ("user.login", "2001:db8::1", ""),
        *(("user.login_failure", f"192.0.2.{step}", "Browser/1") for step in (2, 1, 0)),
        ("user.register", "", ""),
    ]
    first: SecurityEvent = answer.events[0]
    assert first.session_id == tokens.session_id
    assert first.occur_time.ToDatetime(clock.now().tzinfo) == clock.now()
    assert len({event.event_id for event in answer.events}) == 5


@pytest.mark.parametrize("page_size", [1, 3, 50])
async def test_pages_list_each_event_once_despite_insertions(
    page_size: int, timed: Service
) -> None:
    service = timed
    tokens = await service.new_session()
    await add_events(service, tokens.user_id, 60)
    [*stored] = await service.fetch("SELECT event_id FROM audit_events WHERE type = 'test'")
    seen, page_token = [], ""
    while True:
        page = await list_events(service, tokens, page_size, page_token)
        assert len(page.events) <= page_size
        seen += [event.event_id for event in page.events if event.type == "test"]
        page_token = page.next_page_token
        if not page_token:
            break
        await service.account().UpdateAccount(UpdateAccountRequest(), metadata=bearer(tokens))
    assert len(seen) == 60
    assert set(seen) == {str(event_id) for (event_id,) in stored}


async def test_page_token_is_bound_to_user(service: Service) -> None:
    tokens, other = await service.new_session(), await service.new_session("b@example.test")
    page = await list_events(service, tokens, 1)
    assert page.next_page_token
    for token in (page.next_page_token[:-1], "x", "A" * 54, "é"):
        error = await failure(list_events(service, tokens, 1, token))
        assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", ["page_token"])
    error = await failure(list_events(service, other, 1, page.next_page_token))
    assert fields_of(error) == ["page_token"]
    error = await failure(list_events(service, tokens, 1_001))
    assert fields_of(error) == ["page_size"]


async def test_listing_does_not_scan_events_of_others(service: Service) -> None:
    tokens = await service.new_session()
    await add_events(service, tokens.user_id, 300, at="now()")
    await service.fetch(
        "INSERT INTO audit_events (event_id, occur_time, type, caller, request_id, user_id)"
        " SELECT gen_random_uuid(), now(), 'test', 'c', n, gen_random_uuid()"
        " FROM generate_series(1, 20000) AS n"
    )
    await service.fetch("ANALYZE audit_events")
    plan = await service.fetch(
        "EXPLAIN (ANALYZE, FORMAT JSON)" + store._LIST_EVENTS,
        tokens.user_id,
        store.LAST_EVENT.occur_time,
        store.LAST_EVENT.event_id,
        51,
    )
    read = sum(
        node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        for node in nodes(json.loads(plan[0][0])[0]["Plan"])
        if "Relation Name" in node
    )
    assert 51 <= read < 200


def nodes(plan: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a plan's nodes."""
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes(child))]


# ExportData


async def export(service: Service, tokens: Tokens) -> list[bytes]:
    """Return the chunks of an export."""
    call = service.account().ExportData(ExportDataRequest(), metadata=bearer(tokens))
    return [chunk.json_lines async for chunk in call]


async def exported(service: Service, tokens: Tokens) -> dict[str, list[dict[str, Any]]]:
    """Return the contents of an export, by kind."""
    held = defaultdict(list)
    for line in b"".join(await export(service, tokens)).splitlines():
        row = json.loads(line)
        held[row.pop("kind")].append(row)
    return held


@pytest.mark.fast
async def test_export_contains_all_user_data(service: Service) -> None:
    tokens = await service.new_session(device_id="phone", ip="192.0.2.1", user_agent="é")
    await give_everything(service, tokens.user_id)
    held = await exported(service, tokens)
    # So a new table or column can't be forgotten.
    assert set(TABLES.values()) == await tables_of_users(service) - OF_NOBODY - COPIES
    assert held.keys() == TABLES.keys()
    for kind, table in TABLES.items():
        columns = {name.removeprefix(f"{kind}_") for row in held[kind] for name in row}
        columns |= {"kind"} if any(f"{kind}_kind" in row for row in held[kind]) else set()
        expected = await columns_of(service, table) - UNREAD[table]
        assert {name.removeprefix(f"{kind}_") for name in expected} <= columns, kind
    assert b"SECRET" not in b"".join(await export(service, tokens))
    assert held["user"][0]["email"] == EMAIL
    assert held["user"][0]["has_password"] is True
    assert held["session"][0]["user_agent"] == "é"
    assert held["recovery_codes"][0]["count"] == 1


async def test_devices_are_exported_without_the_dropped_column(service: Service) -> None:
    assert "failed_logins" not in await columns_of(service, "devices")
    tokens = await service.new_session(device_id="phone")
    assert len((await exported(service, tokens))["device"]) == 1


async def test_export_contains_nothing_of_other_users(service: Service) -> None:
    tokens = await service.new_session("b@example.test")
    await give_everything(service, tokens.user_id)
    own = await service.new_session()
    held = await exported(service, own)
    assert held.keys() == {"user", "session", "one_time_code", "message", "audit_event"}
    shown = json.dumps(held)
    assert "b@example.test" not in shown
    assert tokens.user_id not in shown


async def test_export_is_recorded_before_it_begins(service: Service) -> None:
    tokens = await service.new_session()
    events = (await exported(service, tokens))["audit_event"]
    assert [event["type"] for event in events] == [
        "user.register",
        "user.login",
        "user.data_export",
    ]
    assert events[-1]["session_id"] == tokens.session_id


async def test_export_requires_recent_login(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session()
    clock.advance(601)
    assert await outcome(export(timed, tokens)) == "REAUTHENTICATION_REQUIRED"
    assert await timed.fetch("SELECT FROM audit_events WHERE type = 'user.data_export'") == []


async def test_export_streams_chunks_of_whole_lines(service: Service) -> None:
    tokens = await service.new_session()
    await add_events(service, tokens.user_id, 5_001)
    long = "jsonb_build_object('text', repeat('é\"', 40000))"
    await service.fetch(
        "INSERT INTO audit_events (event_id, occur_time, type, caller, request_id, user_id, detail)"
        f" VALUES (gen_random_uuid(), '2030-06-01', 'long', '', '', $1, {long})",
        tokens.user_id,
    )
    chunks = await export(service, tokens)
    assert all(chunk.endswith(b"\n") for chunk in chunks)
    large = [chunk for chunk in chunks if len(chunk) > 60 * 1_024]
    assert [chunk.count(b"\n") for chunk in large] == [1]
    lines = [json.loads(line) for line in b"".join(chunks).splitlines()]
    assert len({line["event_id"] for line in lines if line.get("type") == "test"}) == 5_001


async def test_slow_reader_holds_no_database_connection(service: Service) -> None:
    tokens = await service.new_session()
    await add_events(service, tokens.user_id, 20_000)
    call = service.account().ExportData(ExportDataRequest(), metadata=bearer(tokens))
    chunks = aiter(call)
    first = await anext(chunks)
    # More remains than fits the flow-control window, so the call waits for its reader.
    dsn = service.settings.database.url.get_secret_value()

    async def all_idle() -> bool:
        return set(await backends(dsn)) == {"idle"}

    await until(all_idle)
    rest = [chunk.json_lines async for chunk in chunks]
    lines = b"".join([first.json_lines, *rest]).count(b"\n")
    assert lines > 20_000


async def test_export_of_account_deleted_meanwhile_fails(
    service: Service,
) -> None:
    tokens = await service.new_session()
    await add_events(service, tokens.user_id, 20_000)
    call = service.account().ExportData(ExportDataRequest(), metadata=bearer(tokens))
    chunks = aiter(call)
    await anext(chunks)
    await service.fetch("DELETE FROM users")

    async def rest() -> None:
        async for _ in chunks:
            pass

    assert await outcome(rest()) == "BEARER_INVALID"


async def test_concurrent_exports_are_limited(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authsvc.core.accounts.own_data._MAX_EXPORTS", 1)
    tokens = await service.new_session()
    await add_events(service, tokens.user_id, 20_000)
    call = service.account().ExportData(ExportDataRequest(), metadata=bearer(tokens))
    await call.read()
    error = await failure(export(service, tokens))
    assert (reason_of(error), error.code()) == ("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED)
    call.cancel()

    async def possible() -> bool:
        return await outcome(export(service, tokens)) == "OK"

    await until(possible)
