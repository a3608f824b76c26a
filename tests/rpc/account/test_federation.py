"""A user's identities at external providers, from a calling service's side."""

from datetime import UTC
from typing import Any

import grpc
import pytest
import pytest_asyncio

from authsvc.config import Settings
from authsvc.v1 import account_service_pb2 as pb
from authsvc.v1.common_pb2 import Tokens
from tests.support.clock import FakeClock
from tests.support.oauth_requests import came_back, oauth_settings
from tests.support.passkeys import bearer
from tests.support.probe import failure, outcome, reason_of
from tests.support.provider import LocalProvider
from tests.support.service import Service, StartService, fields_of


@pytest_asyncio.fixture
async def linked(
    start_service: StartService, live_settings: Settings, provider: LocalProvider, clock: FakeClock
) -> Service:
    """A service with the provider, as OpenID Connect and as GitHub."""
    settings = live_settings.model_copy(update={"oauth": oauth_settings(provider)})
    return await start_service(settings, clock)


async def link(service: Service, tokens: Tokens, provider: str = "local") -> None:
    await service.auth().CompleteOAuth(await came_back(service, provider, tokens.access_token))


async def listed(service: Service, tokens: Tokens) -> list[pb.Identity]:
    response = await service.account().ListIdentities(
        pb.ListIdentitiesRequest(), metadata=bearer(tokens)
    )
    return list(response.identities)


def unlink(service: Service, tokens: Tokens, provider: str = "local", subject: str = "ada") -> Any:
    return service.account().UnlinkIdentity(
        pb.UnlinkIdentityRequest(provider=provider, subject=subject), metadata=bearer(tokens)
    )


@pytest.mark.fast
async def test_identities_are_listed_and_unlinked(linked: Service, clock: FakeClock) -> None:
    mine = await linked.new_session("b@example.test")
    other = await linked.new_session("c@example.test")
    assert await listed(linked, mine) == []
    await link(linked, mine)
    clock.advance(60)
    await link(linked, mine, "github")
    first, second = await listed(linked, mine)
    assert (first.provider, first.subject, first.email) == ("local", "ada", "ada@example.test")
    assert (second.provider, second.subject) == ("github", "1815")
    assert second.create_time.ToDatetime(UTC) == clock.now()
    assert await listed(linked, other) == []
    assert await outcome(unlink(linked, other)) == "IDENTITY_NOT_FOUND"
    assert await outcome(unlink(linked, mine)) == "OK"
    assert [identity.provider for identity in await listed(linked, mine)] == ["github"]
    error = await failure(unlink(linked, mine))
    assert (error.code(), reason_of(error)) == (
        grpc.StatusCode.NOT_FOUND,
        "IDENTITY_NOT_FOUND",
    )


async def test_last_credential_cannot_be_unlinked(linked: Service) -> None:
    mine = (await linked.auth().CompleteOAuth(await came_back(linked))).tokens
    error = await failure(unlink(linked, mine))
    assert (error.code(), reason_of(error)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "LAST_CREDENTIAL",
    )


async def test_unlinking_requires_recent_login(linked: Service, clock: FakeClock) -> None:
    mine = await linked.new_session("b@example.test")
    await link(linked, mine)
    clock.advance(601)
    error = await failure(unlink(linked, mine))
    assert (error.code(), reason_of(error)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "REAUTHENTICATION_REQUIRED",
    )
    assert len(await listed(linked, mine)) == 1


async def test_invalid_fields_are_named(linked: Service) -> None:
    mine = await linked.new_session("b@example.test")
    for field, values in {
        "provider": {"provider": ""},
        "subject": {"subject": "x" * 257},
    }.items():
        error = await failure(unlink(linked, mine, **values))
        assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", [field])


async def test_disabled_user_cannot_list_or_unlink(linked: Service) -> None:
    mine = await linked.new_session("b@example.test")
    await link(linked, mine)
    assert await linked.judge_token(mine.access_token) == ""
    await linked.fetch("UPDATE users SET status = 'disabled'")
    assert await outcome(unlink(linked, mine)) == "BEARER_INVALID"
    assert await outcome(listed(linked, mine)) == "BEARER_INVALID"
    assert len(await linked.fetch("SELECT FROM identities")) == 1
