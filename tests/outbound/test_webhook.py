"""The posting of messages to a real endpoint over real HTTP, and what each of its answers means."""

import asyncio
import base64
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
import trustme
from aiohttp import web
from pydantic import SecretStr, ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from authsvc.config import WebhookSettings
from authsvc.core.messages.delivery import NotDelivered
from authsvc.models.ids import UserId
from authsvc.outbound.proxy import DIRECT, ProxyRules
from authsvc.outbound.webhook import WebhookChannel
from tests.support.clock import FakeClock
from tests.support.delivering import ADDRESS, CODE
from tests.support.ports import port_of
from tests.support.rendered import rendered

_PATIENCE = 30


def _secret() -> str:
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()


_NEW, _OLD, _OTHER = _secret(), _secret(), _secret()


@dataclass
class Endpoint:
    """What was posted, and how it is answered."""

    url: str = ""
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
    posted: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    elsewhere: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path != "/hook":
            self.elsewhere += 1
            return web.Response()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.posted.append((headers, await request.read()))
        return await self.answer(request) if self.answer else web.Response(status=204)


@asynccontextmanager
async def _serving(context: ssl.SSLContext | None = None) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", endpoint.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    scheme = "https" if context else "http"
    endpoint.url = f"{scheme}://localhost:{port}/hook"
    try:
        yield endpoint
    finally:
        await runner.cleanup()


@pytest_asyncio.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with _serving() as serving:
        yield serving


@asynccontextmanager
async def _channel(
    endpoint: Endpoint, proxies: ProxyRules = DIRECT, **changes: object
) -> AsyncIterator[WebhookChannel]:
    settings = WebhookSettings.model_validate({"url": endpoint.url, "secrets": [_NEW]} | changes)
    # The verifying library compares with the real time.
    channel = WebhookChannel(settings, proxies, FakeClock(datetime.now(UTC)))
    try:
        yield channel
    finally:
        await channel.close()


async def _failure(
    endpoint: Endpoint, proxies: ProxyRules = DIRECT, **changes: object
) -> NotDelivered:
    async with _channel(endpoint, proxies, **changes) as channel:
        with pytest.raises(NotDelivered) as caught:
            await channel.send(rendered())
    return caught.value


def _answering(
    status: int, body: bytes = b"", **headers: str
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=body, headers=named)

    return answer


async def test_post_contains_message_and_valid_signature(endpoint: Endpoint) -> None:
    user_id = UserId(uuid4())
    sent = rendered(user_id=user_id)
    async with _channel(endpoint) as channel:
        await channel.send(sent)
    ((headers, body),) = endpoint.posted
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == f"msg_{sent.message_id}"
    assert Webhook(_NEW).verify(body.decode(), headers) == {
        "type": "message.login_code",
        "timestamp": "2030-01-01T00:00:00+00:00",
        "data": {
            "message_id": str(sent.message_id),
            "kind": "login_code",
            "address": ADDRESS,
            "user_id": str(user_id),
            "code": CODE,
            "expire_time": "2030-01-01T00:10:00+00:00",
            "subject": "Your code",
            "text": sent.content.text,
            "html": sent.content.html,
        },
    }


async def test_both_secrets_sign_during_rotation(endpoint: Endpoint) -> None:
    async with _channel(endpoint, secrets=[_NEW, _OLD]) as channel:
        await channel.send(rendered())
    ((headers, body),) = endpoint.posted
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (_NEW, _OLD):
        Webhook(secret).verify(body.decode(), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(_OTHER).verify(body.decode(), headers)
    for changed in (
        (headers, body + b" "),
        (headers | {"webhook-id": "msg_other"}, body),
        (headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) - 1)}, body),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(_NEW).verify(changed[1].decode(), changed[0])


async def test_retry_has_same_id_and_body(endpoint: Endpoint) -> None:
    sent = rendered()
    for _ in range(2):
        async with _channel(endpoint) as channel:
            await channel.send(sent)
    (first, body), (second, again) = endpoint.posted
    assert (first["webhook-id"], body) == (second["webhook-id"], again)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_any_2xx_status_is_success(endpoint: Endpoint, status: int) -> None:
    endpoint.answer = _answering(status)
    async with _channel(endpoint) as channel:
        await channel.send(rendered())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422])
async def test_4xx_status_is_permanent_failure(endpoint: Endpoint, status: int) -> None:
    endpoint.answer = _answering(status)
    failure = await _failure(endpoint)
    assert (failure.error, failure.permanent) == (f"status_{status}", True)


@pytest.mark.slow
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [("120", 120.0), ("", None), ("-5", None), ("soon", None), ("٣", None)],
)
async def test_other_statuses_are_temporary_failures(
    endpoint: Endpoint, status: int, retry_after: str, seconds: float | None
) -> None:
    endpoint.answer = _answering(status, retry_after=retry_after)
    failure = await _failure(endpoint)
    assert (failure.error, failure.permanent) == (f"status_{status}", False)
    assert failure.retry_after == seconds


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_not_followed(endpoint: Endpoint, status: int) -> None:
    """A message goes where the settings say, and nowhere else."""
    endpoint.answer = _answering(status, location="/elsewhere")
    failure = await _failure(endpoint)
    assert (failure.error, failure.permanent) == (f"status_{status}", False)
    assert endpoint.elsewhere == 0


async def test_endless_response_is_not_read(endpoint: Endpoint) -> None:
    hung_up = asyncio.Event()

    async def pour(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(1_000_000))
        finally:
            hung_up.set()

    endpoint.answer = pour
    async with _channel(endpoint) as channel:
        await channel.send(rendered())
    async with asyncio.timeout(_PATIENCE):
        await hung_up.wait()


async def test_compressed_response_is_not_decompressed(endpoint: Endpoint) -> None:
    endpoint.answer = _answering(200, b"no gzip at all", content_encoding="gzip")
    async with _channel(endpoint) as channel:
        await channel.send(rendered())


async def test_oversized_headers_are_a_temporary_failure(endpoint: Endpoint) -> None:
    endpoint.answer = _answering(200, x_long="x" * 100_000)
    assert (await _failure(endpoint)).permanent is False


@pytest.mark.slow
async def test_silent_endpoint_times_out(endpoint: Endpoint) -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    endpoint.answer = hang
    failure = await _failure(endpoint, timeout="50ms")
    assert (failure.error, failure.permanent) == ("timeout", False)


async def test_unreachable_endpoint_is_temporary_failure(unheard: socket.socket) -> None:
    failure = await _failure(Endpoint(f"http://localhost:{port_of(unheard)}/hook"))
    assert (failure.error, failure.permanent) == ("connection", False)


async def test_tls_requires_trusted_certificate(tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    files = {}
    for name, issuer in (("authority", authority), ("stranger", stranger)):
        files[name] = tmp_path / f"{name}.pem"
        issuer.cert_pem.write_to_path(str(files[name]))
    async with _serving(context) as endpoint:
        for ca_file in (None, files["stranger"]):
            failure = await _failure(endpoint, ca_file=ca_file)
            assert (failure.error, failure.permanent) == ("tls", False)
        by_ip = Endpoint(endpoint.url.replace("localhost", "127.0.0.1"))
        assert (await _failure(by_ip, ca_file=files["authority"])).error == "tls"
        assert endpoint.posted == []
        async with _channel(endpoint, ca_file=files["authority"]) as channel:
            await channel.send(rendered())
        assert len(endpoint.posted) == 1


async def test_cookies_are_not_kept(endpoint: Endpoint) -> None:
    endpoint.answer = _answering(200, set_cookie="a=b")
    async with _channel(endpoint) as channel:
        for _ in range(2):
            await channel.send(rendered())
    assert all("cookie" not in headers for headers, _ in endpoint.posted)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        base64.b64encode(bytes(32)).decode(),
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_not base64!",
        "xwhsec_" + base64.b64encode(bytes(32)).decode(),
    ],
)
def test_invalid_secret_is_rejected_when_loaded(secret: str) -> None:
    with pytest.raises(ValidationError, match="24 to 64 bytes in base64"):
        WebhookSettings(url="https://hooks.test/", secrets=(SecretStr(secret),))


def test_repr_hides_secret() -> None:
    settings = WebhookSettings(url="https://hooks.test/", secrets=(SecretStr(_NEW),))
    shown = f"{settings!r} {json.dumps(settings.model_dump(mode='json'))}"
    assert _NEW not in shown
    assert _NEW.removeprefix("whsec_") not in shown
