"""Asking HTTP servers for JSON: every failure is the same error, and nothing goes without bound."""

import asyncio
import gzip
import io
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from authsvc.errors import ProviderMisconfigured, ProviderUnavailable
from authsvc.outbound.http import open_session
from tests.support.certificates import Authority, Certificate, write_files
from tests.support.clock import FakeClock
from tests.support.logs import caught
from tests.support.provider import (
    MAX_BYTES,
    LocalProvider,
    breaking_off,
    json_client,
    saying,
    serving,
)

SECRET = "what-nobody-may-read"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    with caught() as stream:
        yield stream


async def refused(session: aiohttp.ClientSession, url: str, patience: float = 60) -> bool:
    client = json_client(session, patience)
    for ask in (client.get(url), client.post(url, {"code": SECRET})):
        with pytest.raises(ProviderUnavailable):
            (await ask).members()
    return True


async def test_json_is_returned_with_status(
    provider: LocalProvider, http: aiohttp.ClientSession
) -> None:
    provider.answers["/x"] = saying('{"a": [1]}', status=400)
    answer = await json_client(http).get(f"{provider.address}/x")
    assert (answer.status, answer.content) == (400, {"a": [1]})
    with pytest.raises(ProviderMisconfigured):
        answer.members()


@pytest.mark.slow
@pytest.mark.parametrize("text", ["[]", '"x"', "null", "1"])
async def test_only_json_object_is_accepted(
    text: str, provider: LocalProvider, http: aiohttp.ClientSession
) -> None:
    provider.answers["/x"] = saying(text)
    answer = await json_client(http).get(f"{provider.address}/x")
    with pytest.raises(ProviderUnavailable):
        answer.members()


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<html>Bad gateway</html>", id="HTML"),
        pytest.param(b'{"a": ', id="half"),
        pytest.param(b"\xff\xfe\xff", id="no UTF-8"),
        pytest.param(b"[" * 60_000, id="deep"),
        pytest.param(b"9" * 60_000, id="long number"),
        pytest.param(b" " * MAX_BYTES + b"{}", id="too long"),
    ],
)
async def test_malformed_json_is_rejected(
    body: bytes, provider: LocalProvider, http: aiohttp.ClientSession
) -> None:
    provider.answers["/x"] = saying(body)
    assert await refused(http, f"{provider.address}/x")


async def test_response_of_maximum_size_is_accepted(
    provider: LocalProvider, http: aiohttp.ClientSession
) -> None:
    provider.answers["/x"] = saying(b" " * (MAX_BYTES - 2) + b"{}")
    assert (await json_client(http).get(f"{provider.address}/x")).members() == {}


async def test_endless_response_is_aborted(
    provider: LocalProvider, http: aiohttp.ClientSession
) -> None:
    left = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" " * 65_536)
        finally:
            left.set()

    provider.answers["/x"] = endless
    assert await refused(http, f"{provider.address}/x")
    async with asyncio.timeout(30):
        await left.wait()


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 20_000_000])
async def test_compressed_response_is_rejected(
    size: int, provider: LocalProvider, http: aiohttp.ClientSession
) -> None:
    answer = gzip.compress(b"[" + b"0," * size + b"0]")
    assert len(answer) < MAX_BYTES
    provider.answers["/x"] = saying(answer, content_encoding="gzip")
    assert await refused(http, f"{provider.address}/x")
    assert provider.headers[-1]["Accept-Encoding"] == "identity"


async def test_redirect_is_not_followed(
    provider: LocalProvider, http: aiohttp.ClientSession
) -> None:
    provider.answers["/x"] = saying("{}", status=302, location=f"{provider.address}/elsewhere")
    provider.answers["/y"] = saying("{}", status=307, location=f"{provider.address}/elsewhere")
    client = json_client(http)
    for path in ("/x", "/y"):
        for answer in (
            await client.get(f"{provider.address}{path}"),
            await client.post(f"{provider.address}{path}", {"code": SECRET}),
        ):
            with pytest.raises(ProviderMisconfigured):
                answer.members()
    assert "/elsewhere" not in provider.asked


@pytest.mark.slow
async def test_slow_server_times_out(provider: LocalProvider, http: aiohttp.ClientSession) -> None:
    leave = asyncio.Event()

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while not leave.is_set():
            # Each byte is in time: only the whole isn't.
            await response.write(b" ")
            await asyncio.sleep(0.02)
        return response

    async def silent(_request: web.Request) -> web.StreamResponse:
        await leave.wait()
        return web.Response()

    provider.answers |= {"/drip": drip, "/silent": silent}
    async with asyncio.timeout(60):
        for path in ("/drip", "/silent"):
            assert await refused(http, f"{provider.address}{path}", patience=0.3)
    leave.set()


@pytest.mark.slow
async def test_unreachable_or_disconnecting_server_fails(
    provider: LocalProvider, http: aiohttp.ClientSession, clock: FakeClock
) -> None:
    provider.answers["/x"] = breaking_off
    assert await refused(http, f"{provider.address}/x")
    async with serving(LocalProvider(clock)) as gone:
        address = gone.address
    assert await refused(http, address)
    for url in ("http://", "nonsense", "http://[::1", "http://a b/", "ftp://127.0.0.1/x"):
        assert await refused(http, url)


async def test_connections_are_reused(provider: LocalProvider, http: aiohttp.ClientSession) -> None:
    ports = set()

    async def note(request: web.Request) -> web.Response:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername"))
        return web.json_response({})

    provider.answers["/x"] = note
    client = json_client(http)
    for _ in range(5):
        await client.get(f"{provider.address}/x")
    assert len(ports) == 1


async def test_cookies_are_not_kept(provider: LocalProvider, http: aiohttp.ClientSession) -> None:
    provider.answers["/x"] = saying("{}", set_cookie="session=1; Path=/")
    for _ in range(2):
        await json_client(http).get(f"{provider.address}/x")
    assert "Cookie" not in provider.headers[-1]


async def test_response_content_is_not_logged(
    lines: io.StringIO, provider: LocalProvider, http: aiohttp.ClientSession
) -> None:
    provider.answers["/x"] = saying(f"<b>{SECRET}</b>", x_header=SECRET)
    assert await refused(http, f"{provider.address}/x?code={SECRET}")
    events = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert {event["event"] for event in events} == {"provider_failed"}
    assert SECRET not in lines.getvalue()


def context(tmp_path: Path, authority: Authority, server: Certificate) -> ssl.SSLContext:
    files = write_files(tmp_path, authority.certificate, server)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(files.certificate_file, files.key_file)
    return tls


async def test_certificates_are_verified(
    tmp_path: Path, authority: Authority, clock: FakeClock
) -> None:
    ca_file, other = tmp_path / "ca.crt", tmp_path / "other.crt"
    ca_file.write_bytes(authority.certificate)
    other.write_bytes(Authority("Another").certificate)
    tls = context(tmp_path, authority, authority.server())
    async with serving(LocalProvider(clock), tls) as provider, open_session() as session:
        url = f"{provider.address}/.well-known/openid-configuration"
        answer = await json_client(session, ca_file=ca_file).get(url)
        assert answer.members()["issuer"] == provider.address
        # The connection that is open and good for one client is not used by another.
        for untrusting in (json_client(session), json_client(session, ca_file=other)):
            with pytest.raises(ProviderMisconfigured):
                await untrusting.get(url)


async def test_certificate_of_another_name_is_rejected(
    tmp_path: Path, authority: Authority, clock: FakeClock
) -> None:
    ca_file = tmp_path / "ca.crt"
    ca_file.write_bytes(authority.certificate)
    tls = context(tmp_path, authority, authority.caller("spiffe://authsvc.test/app"))
    async with serving(LocalProvider(clock), tls) as provider, open_session() as session:
        with pytest.raises(ProviderMisconfigured):
            await json_client(session, ca_file=ca_file).get(provider.address)
