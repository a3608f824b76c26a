"""Many tokens in one call have the results that each would have alone."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from authsvc.client import AsyncTokenValidator, TokenValidator
from authsvc.v1.auth_service_pb2 import LogoutRequest, ValidateTokenRequest
from tests.support.clients import OpenAsync, OpenSync
from tests.support.probe import ProbeServer
from tests.support.service import Service, inactive

JUNK = ["", "junk", "a b", "\ud800", "x" * 9_000, "a.b.c", "\x00"]


@pytest.fixture
async def tokens(service: Service) -> list[str]:
    """Tokens of three users, and what is no token."""
    active = [
        (await service.new_session(f"user{number}@example.com")).access_token for number in range(3)
    ]
    return [*active, *JUNK, active[0] + "x", active[1]]


def expected(tokens: list[str]) -> list[str]:
    return ["", "", "", *["MALFORMED"] * len(JUNK), "MALFORMED", ""]


async def test_results_are_in_order(
    service: Service, tokens: list[str], open_async: OpenAsync
) -> None:
    validator = AsyncTokenValidator(open_async(service.app.grpc_port, "edge"))
    results = await asyncio.gather(*map(validator.validate, tokens * 20))
    assert [inactive(each) for each in results][: len(tokens)] == expected(tokens)
    subjects = [each.claims.subject for each in results]
    assert subjects == subjects[: len(tokens)] * 20
    assert len(set(subjects)) == 4


async def test_results_of_threads_are_in_order(
    service: Service, tokens: list[str], open_sync: OpenSync
) -> None:
    validator = TokenValidator(open_sync(service.app.grpc_port, "edge"))

    def all_at_once() -> list[str]:
        with ThreadPoolExecutor(32) as threads:
            return [inactive(each) for each in threads.map(validator.validate, tokens * 5)]

    assert await asyncio.to_thread(all_at_once) == expected(tokens) * 5


async def test_what_is_asked_beside_the_token_is_kept(
    service: Service, open_async: OpenAsync, open_sync: OpenSync
) -> None:
    tokens = await service.new_session()
    token = tokens.access_token
    edge = open_async(service.app.grpc_port, "edge")
    validator = AsyncTokenValidator(edge)
    threaded = TokenValidator(open_sync(service.app.grpc_port, "edge"))
    scopes = list((await validator.validate(token)).claims.scopes)
    for more, reason in (
        ({"audience": "authsvc"}, ""),
        ({"audience": "billing"}, "AUDIENCE_MISMATCH"),
        ({"scopes": ["invoices.read"]}, "SCOPE_MISSING"),
        ({"scopes": scopes}, ""),
        ({"scopes": ["invoices.read"], "strict": True}, "SCOPE_MISSING"),
        ({"strict": True}, ""),
        ({"certificate_thumbprint": bytes(32)}, ""),
    ):
        assert inactive(await validator.validate(token, **more)) == reason
        by_thread = await asyncio.to_thread(threaded.validate, token, **more)
        assert inactive(by_thread) == reason
    alone = await edge.auth.ValidateToken(ValidateTokenRequest(access_token=token))
    assert await validator.validate(token) == alone
    await service.auth().Logout(LogoutRequest(refresh_token=tokens.refresh_token))
    assert inactive(await validator.validate(token, strict=True)) == "SESSION_REVOKED"


async def test_what_only_a_call_of_its_own_can_say_is_said(
    probe: ProbeServer, open_async: OpenAsync, open_sync: OpenSync
) -> None:
    seen = []

    async def answer(request: Any) -> None:
        seen.append(request)

    probe.probe.answer = answer
    validator = AsyncTokenValidator(open_async(probe.clients.port, "edge"))
    threaded = TokenValidator(open_sync(probe.clients.port, "edge"))
    alone: list[dict[str, Any]] = [
        {"strict": True},
        {"min_cursor": "c"},
        {"certificate_thumbprint": bytes(32)},
    ]
    for more in alone:
        asked: dict[str, Any] = {"audience": "a", "scopes": ["s"], **more}
        await validator.validate("t", **asked)
        await asyncio.to_thread(threaded.validate, "t", **asked)
        beside: dict[str, Any] = {"audience": "a", "required_scopes": ["s"], **more}
        expected = ValidateTokenRequest(access_token="t", **beside)
        assert seen[-2:] == [expected, expected]
