"""Strangers who create an account with somebody's address in order to flood that mailbox."""

from collections import Counter

import pytest

from authsvc.v1 import account_service_pb2 as pb
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.passkeys import bearer
from tests.support.probe import outcome
from tests.support.service import Service

MAILS = "SELECT kind FROM outbox WHERE state <> 'decoy'"


async def mails(service: Service) -> Counter[str]:
    return Counter(row["kind"] for row in await service.fetch(MAILS))


async def test_notices_are_limited_per_hour(service: Service) -> None:
    tokens = await service.new_session()
    account, metadata = service.account(), bearer(tokens)
    for _ in range(15):
        request = pb.CreateApiKeyRequest(name="k")
        created = await account.CreateApiKey(request, metadata=metadata)
        await account.RevokeApiKey(
            pb.RevokeApiKeyRequest(key_id=created.key.key_id), metadata=metadata
        )
    # Notices of other changes are still sent.
    await account.ChangePassword(
        pb.ChangePasswordRequest(
            current_password=PASSWORD, new_password="Sketch-Of-The-Engine-1843"
        ),
        metadata=metadata,
    )
    assert await mails(service) == {"verify_email": 1, "api_key_created": 10, "password_changed": 1}
    await service.fetch("UPDATE outbox SET create_time = create_time - interval '1 hour'")
    await account.CreateApiKey(pb.CreateApiKeyRequest(name="k"), metadata=metadata)
    assert (await mails(service))["api_key_created"] == 11


@pytest.mark.parametrize("spelling", [EMAIL, EMAIL.upper()])
async def test_repeated_registration_and_deletion_is_limited(
    service: Service, spelling: str
) -> None:
    for _ in range(5):
        tokens = await service.new_session()
        await service.account().DeleteAccount(pb.DeleteAccountRequest(), metadata=bearer(tokens))
    assert await outcome(service.register(spelling)) == "TOO_MANY_ATTEMPTS"
    assert await outcome(service.register("other@example.test")) == "OK"
    # Messages about an account are deleted with it, except the notice of the deletion.
    assert await mails(service) == {"account_deleted": 5, "verify_email": 1}
