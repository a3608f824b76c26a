"""Changes by a thief that wait for the transaction that ends the thief's session."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import asyncpg
import grpc
import pytest

from authsvc.v1 import account_service_pb2 as pb
from authsvc.v1.common_pb2 import Tokens
from tests.support import code_requests, factor_requests
from tests.support.accounts import PASSWORD
from tests.support.codes import NEW_PASSWORD
from tests.support.databases import until
from tests.support.passkeys import SoftDevice, bearer, begin_registration, text
from tests.support.probe import reason_of
from tests.support.service import Service

pytestmark = pytest.mark.fast

Make: TypeAlias = Callable[[Service, Tokens], Awaitable[Any]]

GITHUB = """
INSERT INTO identities (provider, subject, user_id, create_time, last_use_time)
SELECT 'github', '4711', user_id, now(), now() FROM users
"""
WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
# Everything that a thief could get back in with, or do harm with.
HELD = """
SELECT (SELECT count(*) FROM api_keys), (SELECT count(*) FROM factors WHERE confirm_time NOTNULL),
    (SELECT count(*) FROM identities),
    (SELECT array_agg(code_hash) FROM recovery_codes), (SELECT count(*) FROM factors),
    (SELECT count(*) FROM users), (SELECT email FROM users), (SELECT password_hash FROM users)
"""


def plain(request: Any) -> Make:
    async def make(_service: Service, _tokens: Tokens) -> Any:
        return request

    return make


async def finish_passkey(service: Service, tokens: Tokens) -> Any:
    begun = await begin_registration(service, tokens)
    credential = text(SoftDevice().create(begun.options_json))
    return pb.FinishPasskeyRegistrationRequest(
        challenge_id=begun.challenge_id, credential_json=credential
    )


async def first_password(service: Service, _tokens: Tokens) -> Any:
    await service.fetch("UPDATE users SET password_hash = NULL, pepper_id = NULL")
    return pb.ChangePasswordRequest(new_password=NEW_PASSWORD)


async def unlink(service: Service, _tokens: Tokens) -> Any:
    await service.fetch(GITHUB)
    return pb.UnlinkIdentityRequest(provider="github", subject="4711")


CHANGES: Mapping[str, tuple[str, Make]] = {
    "key": ("CreateApiKey", plain(pb.CreateApiKeyRequest(name="mine"))),
    "app": ("EnrollTotp", plain(pb.EnrollTotpRequest())),
    "app confirmed": ("ConfirmTotp", factor_requests.confirm),
    "passkey begun": ("BeginPasskeyRegistration", plain(pb.BeginPasskeyRegistrationRequest())),
    "passkey": ("FinishPasskeyRegistration", finish_passkey),
    "factor removed": ("RemoveFactor", factor_requests.remove),
    "recovery codes": ("GenerateRecoveryCodes", factor_requests.generate),
    "identity": ("UnlinkIdentity", unlink),
    "address": ("ConfirmEmailChange", code_requests.confirm_change),
    "password": (
        "ChangePassword",
        plain(pb.ChangePasswordRequest(current_password=PASSWORD, new_password=NEW_PASSWORD)),
    ),
    "first password": ("ChangePassword", first_password),
    "account": ("DeleteAccount", plain(pb.DeleteAccountRequest())),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_change_is_rejected_if_session_ends_while_waiting(
    timed: Service, change: str
) -> None:
    tokens = await timed.proved_session()
    name, make = CHANGES[change]
    request = await make(timed, tokens)
    owner = await asyncpg.connect(timed.settings.database.url.get_secret_value())
    try:
        async with owner.transaction():
            await owner.execute("SELECT FROM users FOR NO KEY UPDATE")
            await owner.execute(
                "UPDATE sessions SET revoke_time = now(), revoke_reason = 'revoked'"
            )
            before = await owner.fetchrow(HELD)
            call = getattr(timed.account(), name)(request, metadata=bearer(tokens))
            thief = asyncio.ensure_future(call)

            async def waits() -> bool:
                return bool(await owner.fetchval(WAITING))

            await until(waits)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await thief
        assert reason_of(refused.value) == "BEARER_INVALID"
        assert await owner.fetchrow(HELD) == before
    finally:
        await owner.close()
