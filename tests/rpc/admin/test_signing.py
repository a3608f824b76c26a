"""AdminService's RPCs about signing keys over mutual TLS."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from authsvc.config import Settings
from authsvc.v1 import admin_service_pb2 as pb
from authsvc.v1.auth_service_pb2 import GetJwksRequest
from tests.support.probe import failure, identity_of, outcome, reason_of
from tests.support.service import Service, StartService, fields_of

ACTIVE, RETIRED = pb.SIGNING_KEY_STATE_ACTIVE, pb.SIGNING_KEY_STATE_RETIRED
PREPARED, REVOKED = pb.SIGNING_KEY_STATE_PREPARED, pb.SIGNING_KEY_STATE_REVOKED


async def keys(service: Service, **request: Any) -> pb.ListSigningKeysResponse:
    return await service.admin().ListSigningKeys(pb.ListSigningKeysRequest(**request))


async def states(service: Service) -> dict[str, int]:
    return {key.key_id: key.state for key in (await keys(service)).keys}


async def in_state(service: Service, state: pb.SigningKeyState.ValueType) -> pb.SigningKey:
    [found] = [key for key in (await keys(service)).keys if key.state == state]
    return found


async def rotate(service: Service, active_key_id: str = "") -> pb.SigningKey:
    request = pb.RotateSigningKeyRequest(active_key_id=active_key_id, now=True)
    return (await service.admin().RotateSigningKey(request)).active_key


async def revoke(service: Service, key_id: str) -> pb.SigningKey:
    request = pb.RevokeSigningKeyRequest(key_id=key_id)
    return (await service.admin().RevokeSigningKey(request)).active_key


async def events(service: Service, kind: str) -> list[tuple[str, str]]:
    rows = await service.fetch(
        "SELECT caller, detail FROM audit_events WHERE type = $1 AND caller <> 'system'"
        " ORDER BY event_id",
        kind,
    )
    return [(row["caller"], json.loads(row["detail"])["key_id"]) for row in rows]


@pytest.mark.fast
async def test_rotated_key_verifies_and_revoked_key_does_not(service: Service) -> None:
    before = await service.new_session()
    first, prepared = await in_state(service, ACTIVE), await in_state(service, PREPARED)
    assert (first.algorithm, prepared.algorithm) == ("ES256", "ES256")
    assert first.HasField("activate_time")
    assert not first.HasField("retire_time")
    # When the first one's time is over.
    interval = prepared.activate_time.ToDatetime() - first.activate_time.ToDatetime()
    assert interval == timedelta(days=30)
    second = await rotate(service)
    assert (second.key_id, second.state) == (prepared.key_id, ACTIVE)
    spare = await in_state(service, PREPARED)
    assert await states(service) == {
        first.key_id: RETIRED,
        second.key_id: ACTIVE,
        spare.key_id: PREPARED,
    }
    assert await service.judge_token(before.access_token) == ""
    after = await service.login()
    # The active key: the prepared one takes over at once.
    third = await revoke(service, second.key_id)
    assert third.key_id == spare.key_id
    assert await states(service) == {
        first.key_id: RETIRED,
        second.key_id: REVOKED,
        third.key_id: ACTIVE,
        (await in_state(service, PREPARED)).key_id: PREPARED,
    }
    assert await service.judge_token(after.access_token) == "SIGNATURE_INVALID"
    assert await service.judge_token(before.access_token) == ""
    assert await service.judge_token((await service.login()).access_token) == ""
    # Again is no error, and nothing new.
    assert (await revoke(service, second.key_id)).key_id == third.key_id
    admin = identity_of("admin")
    assert await events(service, "key.rotate") == [(admin, second.key_id)]
    assert await events(service, "key.revoke") == [(admin, second.key_id)]
    [logged] = await service.fetch("SELECT key_id FROM revocations")
    assert logged["key_id"] == second.key_id


async def test_rotation_waits_for_the_lead_and_says_until_when(service: Service) -> None:
    first, prepared = await in_state(service, ACTIVE), await in_state(service, PREPARED)
    request = pb.RotateSigningKeyRequest()
    for _ in range(3):
        answer = await service.admin().RotateSigningKey(request)
        assert answer.active_key == first
        assert (answer.next_key.key_id, answer.next_key.state) == (prepared.key_id, PREPARED)
        lead = answer.next_key.activate_time.ToDatetime() - prepared.create_time.ToDatetime()
        assert lead == timedelta(hours=1)
        assert await in_state(service, PREPARED) == answer.next_key
        request.active_key_id = first.key_id
    assert await events(service, "key.request_rotation") == [(identity_of("admin"), first.key_id)]
    # Only `now` doesn't wait.
    request.now = True
    answer = await service.admin().RotateSigningKey(request)
    assert answer.active_key.key_id == prepared.key_id
    assert not answer.HasField("next_key")


async def test_no_private_part_is_shown(service: Service) -> None:
    await rotate(service)
    raw = (await keys(service)).SerializeToString()
    rows = await service.fetch("SELECT sealed_key FROM signing_keys")
    assert all(row["sealed_key"][-32:] not in raw for row in rows)
    names = {field.name for field in pb.SigningKey.DESCRIPTOR.fields}
    assert names == {
        *("key_id", "algorithm", "state", "create_time"),
        *("activate_time", "retire_time", "revoke_time", "expire_time"),
    }


async def test_pages_list_all_keys_newest_first(service: Service) -> None:
    for _ in range(4):
        await rotate(service)
    whole = [key.key_id for key in (await keys(service)).keys]
    created = [key.create_time.ToNanoseconds() for key in (await keys(service)).keys]
    assert created == sorted(created, reverse=True)
    found, token = list[str](), ""
    while True:
        page = await keys(service, page_size=2, page_token=token)
        found += [key.key_id for key in page.keys]
        token = page.next_page_token
        if not token:
            break
        assert len(page.keys) == 2
    assert found == whole
    assert len(whole) == 6


@pytest.mark.parametrize("token", ["x", "1", "1.", ".x", "-1.x", "1" * 17 + ".x", "1.x\n", "1.ü"])
async def test_foreign_page_token_is_rejected(token: str, service: Service) -> None:
    error = await failure(keys(service, page_token=token))
    assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", ["page_token"])


@pytest.mark.parametrize("key_id", ["unknown", "x" * 43, "../../etc/passwd"])
async def test_unknown_key_is_not_found(key_id: str, service: Service) -> None:
    before = await states(service)
    assert await outcome(revoke(service, key_id)) == "KEY_NOT_FOUND"
    assert await outcome(rotate(service, key_id)) == "KEY_NOT_FOUND"
    assert await states(service) == before


async def test_repeated_rotation_of_the_same_key_changes_nothing(service: Service) -> None:
    first = await in_state(service, ACTIVE)
    second = await rotate(service, first.key_id)
    assert second.key_id != first.key_id
    assert await rotate(service, first.key_id) == second
    assert len(await states(service)) == 3
    assert len(await events(service, "key.rotate")) == 1


async def test_rotations_at_once_on_two_replicas_make_one_key(
    start_service: StartService, live_settings: Settings
) -> None:
    replicas = [await start_service(live_settings) for _ in range(2)]
    first, prepared = await in_state(replicas[0], ACTIVE), await in_state(replicas[0], PREPARED)
    rotated = await asyncio.gather(*(rotate(replicas[at % 2], first.key_id) for at in range(10)))
    [second] = {key.key_id for key in rotated}
    assert second == prepared.key_id
    found = await states(replicas[0])
    assert (found.pop(first.key_id), found.pop(second)) == (RETIRED, ACTIVE)
    assert list(found.values()) == [PREPARED]
    assert len(await events(replicas[0], "key.rotate")) == 1


async def test_revocations_and_rotations_at_once_leave_one_active_key(
    start_service: StartService, live_settings: Settings
) -> None:
    replicas = [await start_service(live_settings) for _ in range(2)]
    first = await in_state(replicas[0], ACTIVE)
    work = [
        rotate(replicas[at % 2]) if at % 3 else revoke(replicas[at % 2], first.key_id)
        for at in range(12)
    ]
    await asyncio.gather(*work)
    found = await states(replicas[0])
    assert found[first.key_id] == REVOKED
    assert list(found.values()).count(ACTIVE) == 1
    assert len(await events(replicas[0], "key.revoke")) == 1
    published = await replicas[1].auth("edge").GetJwks(GetJwksRequest())
    assert first.key_id not in published.jwks_json
