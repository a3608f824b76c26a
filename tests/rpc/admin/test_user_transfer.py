"""AdminService over mutual TLS: files of users as streams, and misbehaving streams."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import Any

import bcrypt
import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from authsvc.config import Settings
from authsvc.v1.admin_service_pb2 import FirebaseScrypt, ImportUsersRequest, ImportUsersResponse
from tests.core.passwords.test_foreign_forms import PASSWORD as OLD_PASSWORD
from tests.core.passwords.test_foreign_forms import WEAK
from tests.core.passwords.test_foreign_hashes import FIREBASE, FIREBASE_HASH, FIREBASE_SALT
from tests.support.databases import until
from tests.support.probe import failure, outcome, reason_of, with_changes
from tests.support.service import Service, StartService, detail

METHOD = "/authsvc.v1.AdminService/ImportUsers"
PASSWORD = "hunter2"  # which none of our policies would accept


def row(name: str, **more: Any) -> bytes:
    return json.dumps({"email": f"{name}@example.test"} | more).encode() + b"\n"


def hashed(password: str = PASSWORD) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(8)).decode()


def cut(data: bytes, size: int = 1_000) -> list[ImportUsersRequest]:
    return [ImportUsersRequest(chunk=data[at : at + size]) for at in range(0, len(data), size)]


async def send(service: Service, requests: Iterable[ImportUsersRequest]) -> ImportUsersResponse:
    async def stream() -> AsyncIterator[ImportUsersRequest]:
        for request in requests:
            yield request

    return await service.admin().ImportUsers(stream())


async def send_whole(
    service: Service, request: ImportUsersRequest, caller: str = "admin"
) -> ImportUsersResponse:
    """Send a file as one message that ends the stream.

    Use it for files that are rejected: if the status arrives while grpc.aio's client is still
    writing, it reports INTERNAL or CANCELLED instead.
    """
    rpc = service.clients.raw(caller, METHOD)
    return ImportUsersResponse.FromString(await rpc(request.SerializeToString()))


def counts(response: ImportUsersResponse) -> tuple[int, int, int]:
    return response.imported_count, response.skipped_count, response.failed_count


async def imported(service: Service) -> int:
    (found,) = await service.fetch("SELECT count(*) FROM users")
    return int(found["count"])


@pytest.mark.fast
async def test_imported_users_log_in_with_existing_passwords(service: Service) -> None:
    data = b"".join(row(f"u{n}", password_hash=hashed(), email_verified=True) for n in range(20))
    response = await send(service, cut(data, 100))
    assert counts(response) == (20, 0, 0)
    before = await service.fetch("SELECT password_hash, pepper_id FROM users ORDER BY email")
    assert {(found["password_hash"][:12], found["pepper_id"]) for found in before} == {
        ("foreign:$2b$", None)
    }
    tokens = await service.login("u7@example.test", PASSWORD)
    assert await service.judge_token(tokens.access_token) == ""
    (after,) = await service.fetch(
        "SELECT password_hash, pepper_id, email_verify_time FROM users WHERE email LIKE 'u7@%'"
    )
    assert after["password_hash"].startswith("v1$argon2id$")
    assert after["pepper_id"] == "k1"
    assert after["email_verify_time"] is not None
    await service.login("u7@example.test", PASSWORD)
    assert await outcome(service.login("u8@example.test", "hunter3")) == "CREDENTIALS_INVALID"


async def test_repeated_import_changes_nothing(service: Service) -> None:
    await service.register("ada@example.test")
    before = await service.fetch("SELECT * FROM users")
    data = row("ada", password_hash=hashed(), roles=[]) + row("bob")
    assert counts(await send(service, cut(data))) == (1, 1, 0)
    assert counts(await send(service, cut(data))) == (0, 2, 0)
    after = await service.fetch("SELECT * FROM users WHERE email LIKE 'ada@%'")
    assert after == before


async def test_invalid_rows_are_reported(service: Service) -> None:
    data = b"email,display_name,password_hash\na@example.test,A,\nsecret-name,B,\nc@x.test,C,MD5\n"
    response = await send(service, cut(data))
    assert counts(response) == (1, 0, 2)
    assert [(found.line, found.field) for found in response.failures] == [
        (3, "email"),
        (4, "password_hash"),
    ]
    assert "secret-name" not in str(response)


async def test_only_first_failures_are_reported(service: Service) -> None:
    response = await send(service, cut(b"{}\n" * 1_500))
    assert counts(response) == (0, 0, 1_500)
    assert len(response.failures) == 1_000


@pytest.mark.parametrize("requests", [[], [ImportUsersRequest()], cut(b"\n\n", 1)])
async def test_empty_import_imports_nothing(
    service: Service, requests: list[ImportUsersRequest]
) -> None:
    assert counts(await send(service, requests)) == (0, 0, 0)


async def test_firebase_parameters_are_sent_with_file(service: Service) -> None:
    firebase = FirebaseScrypt(
        base64_signer_key=base64.b64encode(FIREBASE.signer_key).decode(),
        base64_salt_separator="Bw==",
        rounds=8,
        mem_cost=14,
    )
    data = f"email,password_hash,salt\nada@x.test,{FIREBASE_HASH},{FIREBASE_SALT}\n".encode()
    first = ImportUsersRequest(chunk=data, firebase=firebase)
    assert counts(await send(service, [first])) == (1, 0, 0)
    await service.login("ada@x.test", "user1password")
    late = service.admin().ImportUsers()
    for request in (ImportUsersRequest(chunk=b"email\n"), first):
        await late.write(request)
    assert await outcome(late) == "FIELD_INVALID"
    first.firebase.base64_signer_key = "?"
    assert await outcome(send_whole(service, first)) == "FIELD_INVALID"


async def test_weak_hashes_are_accepted_only_if_asked_for(service: Service) -> None:
    weak = WEAK["passlib, ldap_salted_sha1"]
    data = row("ada", password_hash=weak, email_verified=True)
    response = await send(service, cut(data))
    assert counts(response) == (0, 0, 1)
    assert "accept_weak_hashes" in response.failures[0].description
    request = ImportUsersRequest(chunk=data, accept_weak_hashes=True)
    assert counts(await send(service, [request])) == (1, 0, 0)
    (stored,) = await service.fetch("SELECT password_hash, pepper_id FROM users")
    assert stored["password_hash"].startswith("wrapped:$digest-sha1$")
    assert weak[-20:] not in stored["password_hash"]
    assert stored["pepper_id"] is not None
    await service.login("ada@example.test", OLD_PASSWORD)
    (stored,) = await service.fetch("SELECT password_hash FROM users")
    assert stored["password_hash"].startswith("v1$argon2id$")
    assert counts(await send(service, [request])) == (0, 1, 0)


async def test_undefined_roles_are_named(service: Service) -> None:
    response = await send(service, cut(row("ada", roles=["user", "editr", "b-" + "x" * 30])))
    assert counts(response) == (0, 0, 1)
    assert response.failures[0].field == "roles"
    assert '"editr", "b-xxx' in response.failures[0].description


async def test_dry_run_stores_nothing(service: Service) -> None:
    await service.register("ada@example.test")
    request = ImportUsersRequest(chunk=row("ada") + row("bob") + b"{}\n", dry_run=True)
    assert counts(await send(service, [request])) == (1, 1, 1)
    assert await imported(service) == 1


@pytest.mark.parametrize(
    "data", [b"not,fields\n", b'{"realm": "r"}', b"\xff\xfee\0", b"hunter2,ada@example.test\n"]
)
async def test_invalid_file_is_rejected(service: Service, data: bytes) -> None:
    error = await failure(send_whole(service, ImportUsersRequest(chunk=data)))
    assert reason_of(error) == "FIELD_INVALID"
    assert "hunter2" not in str(error)


async def test_malformed_and_oversized_messages_are_rejected(service: Service) -> None:
    good = ImportUsersRequest(chunk=row("ada")).SerializeToString()
    too_large = ImportUsersRequest(chunk=b"\n" * 66_000).SerializeToString()
    for bad in (b"\xff\xff", too_large):
        for messages in ([bad], [good, bad]):
            call = service.clients.raw("admin", METHOD, "stream_unary")()
            for message in messages:
                await call.write(message)
            assert await outcome(call) == "FIELD_INVALID"
    assert await imported(service) == 0


@pytest.mark.parametrize("limit", [{"max_rows": 600}, {"max_file_bytes": 20_000}])
async def test_exceeding_limit_ends_import(
    start_service: StartService, live_settings: Settings, limit: dict[str, int]
) -> None:
    service = await start_service(with_changes(live_settings, "imports", **limit))
    data = b"".join(row(f"u{n}") for n in range(1_000))
    error = await failure(send_whole(service, ImportUsersRequest(chunk=data)))
    assert reason_of(error) == "LIMIT_REACHED"
    assert detail_of(error) == {"limit": str(*limit.values())}
    assert await imported(service) == 500


def detail_of(error: grpc.aio.AioRpcError) -> dict[str, str]:
    return dict(detail(error, ErrorInfo).metadata)


async def test_idle_import_times_out_and_frees_its_slot(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(
        with_changes(live_settings, "imports", idle_timeout=timedelta(seconds=1), max_parallel=1)
    )
    for beginning in ([], cut(row("ada") * 3)):
        call = service.admin().ImportUsers(timeout=60)
        for request in beginning:
            await call.write(request)
        assert await outcome(call) == "STORE_UNAVAILABLE"
    response = await send_whole(service, ImportUsersRequest(chunk=row("bob")))
    assert counts(response) == (1, 0, 0)


async def test_long_import_outlasts_call_timeout(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(
        with_changes(live_settings, "grpc", call_timeout=timedelta(seconds=0.2))
    )
    call = service.admin().ImportUsers()
    for n in range(10):
        await call.write(ImportUsersRequest(chunk=row(f"u{n}")))
        await asyncio.sleep(0.1)  # the import must exceed the call timeout
    await call.done_writing()
    assert counts(await call) == (10, 0, 0)


async def test_concurrent_imports_are_limited_and_leave_room_for_calls(
    start_service: StartService, live_settings: Settings
) -> None:
    changed = with_changes(live_settings, "imports", max_parallel=2)
    service = await start_service(with_changes(changed, "grpc", max_concurrent_rpcs=4))
    calls = [service.admin().ImportUsers() for _ in range(2)]
    for n, call in enumerate(calls):
        await call.write(ImportUsersRequest(chunk=row(f"u{n}")))

    async def is_full() -> bool:
        return await outcome(send_whole(service, ImportUsersRequest())) == "OVERLOADED"

    await until(is_full)
    await service.register("ada@example.test")
    for call in calls:
        await call.done_writing()
        assert counts(await call) == (1, 0, 0)
    assert counts(await send(service, cut(row("bob")))) == (1, 0, 0)


async def test_cancelled_import_can_be_sent_again(service: Service) -> None:
    rows = [row(f"u{n}") for n in range(1_200)]
    call = service.admin().ImportUsers()
    for request in cut(b"".join(rows[:1_100])):
        await call.write(request)

    async def is_half_done() -> bool:
        return await imported(service) >= 1_000

    await until(is_half_done)
    call.cancel()
    assert counts(await send(service, cut(b"".join(rows)))) == (200, 1_000, 0)


async def test_imports_are_recorded_without_imported_data(service: Service) -> None:
    await send(service, cut(row("ada", password_hash=hashed()) + b"{}\n"))
    (event,) = await service.fetch("SELECT * FROM audit_events WHERE type = 'users.import'")
    assert event["caller"] == "spiffe://authsvc.test/admin"
    assert json.loads(event["detail"]) == {"imported": 1, "skipped": 0}


@pytest.mark.parametrize("caller", ["app", "edge", "issuer", "observer", "stranger"])
async def test_only_admins_can_import(service: Service, caller: str) -> None:
    call = send_whole(service, ImportUsersRequest(chunk=row("ada")), caller)
    assert await outcome(call) == "CALLER_NOT_ALLOWED"
    assert await imported(service) == 0
