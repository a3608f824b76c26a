"""Requests to other servers as parts of the call that causes them."""

from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
import trustme
from aiohttp import web

from authsvc.config import WebhookSettings
from authsvc.conventions import (
    ERROR_TYPE,
    HTTP_METHOD,
    HTTP_STATUS,
    MAIL,
    SERVER_ADDRESS,
    SERVER_PORT,
)
from authsvc.core.messages.delivery import NotDelivered
from authsvc.errors import ProviderUnavailable
from authsvc.outbound.proxy import DIRECT
from authsvc.outbound.smtp import SmtpChannel
from authsvc.outbound.webhook import WebhookChannel
from authsvc.tracing import Span, SpanKind
from tests.support.clock import FakeClock
from tests.support.mail_server import HOST, mail_server, settings_for
from tests.support.provider import Handler, LocalProvider, breaking_off, json_client
from tests.support.rendered import rendered
from tests.support.traced import traced


def noting(seen: list[str], status: int = 200) -> Handler:
    """Return a handler that notes the `traceparent` of each request."""

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("traceparent", ""))
        return web.Response(text="{}", status=status)

    return answer


def place(url: str) -> dict[str, str | int]:
    parts = urlsplit(url)
    return {SERVER_ADDRESS: parts.hostname or "", SERVER_PORT: parts.port or 0}


def assert_carried_on(part: Span, seen: list[str]) -> None:
    assert seen == [f"00-{part.trace_id}-{part.id}-01"]
    assert part.kind is SpanKind.CLIENT


async def test_request_to_a_provider_is_a_part_without_its_path(
    provider: LocalProvider, http: aiohttp.ClientSession
) -> None:
    seen: list[str] = []
    provider.answers["/secret/path"] = noting(seen, status=404)
    with traced() as parts:
        await json_client(http).post(f"{provider.address}/secret/path?code=x", {"a": "b"})
    [part] = parts
    assert_carried_on(part, seen)
    assert part.name == "POST"
    assert part.failed
    assert part.attributes == {
        HTTP_METHOD: "POST",
        HTTP_STATUS: 404,
        ERROR_TYPE: "404",
        **place(provider.address),
    }


async def test_untraced_request_carries_nothing(
    provider: LocalProvider, http: aiohttp.ClientSession
) -> None:
    seen: list[str] = []
    provider.answers["/x"] = noting(seen)
    await json_client(http).get(f"{provider.address}/x")
    assert seen == [""]


async def test_failed_request_is_a_failed_part(
    provider: LocalProvider, http: aiohttp.ClientSession
) -> None:
    provider.answers["/x"] = breaking_off
    with traced() as parts, pytest.raises(ProviderUnavailable):
        await json_client(http).get(f"{provider.address}/x")
    [part] = parts
    assert part.failed
    assert str(part.attributes[ERROR_TYPE]).endswith("Error")


async def test_webhook_is_a_part(provider: LocalProvider, clock: FakeClock) -> None:
    seen: list[str] = []
    provider.answers["/hook"] = noting(seen)
    settings = WebhookSettings.model_validate(
        {"url": f"{provider.address}/hook", "secrets": ["whsec_" + "A" * 32]}
    )
    channel = WebhookChannel(settings, DIRECT, clock)
    with traced() as parts:
        await channel.send(rendered())
    await channel.close()
    [part] = parts
    assert_carried_on(part, seen)
    assert part.attributes == {HTTP_METHOD: "POST", HTTP_STATUS: 200, **place(provider.address)}


async def test_mail_is_a_part(tmp_path: Path) -> None:
    authority = trustme.CA()
    async with mail_server(authority) as server:
        channel = SmtpChannel(settings_for(server, authority, tmp_path))
        with traced() as parts:
            await channel.send(rendered())
            server.rcpt = "550 no"
            with pytest.raises(NotDelivered):
                await channel.send(rendered())
    sent, refused = parts
    assert (sent.name, sent.kind, sent.failed) == (MAIL, SpanKind.CLIENT, False)
    assert sent.attributes == {SERVER_ADDRESS: HOST, SERVER_PORT: server.port}
    assert refused.attributes == sent.attributes | {ERROR_TYPE: "NotDelivered"}
