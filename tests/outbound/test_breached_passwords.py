"""Asking a service of breached passwords over real HTTP: what it gets, and bad answers from it."""

import asyncio
import re
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from authsvc.config import ConfigError
from authsvc.errors import ProviderMisconfigured, ProviderUnavailable
from authsvc.outbound.breached_passwords import RangeApi, open_ranges
from authsvc.outbound.http import open_session
from authsvc.outbound.proxy import DIRECT, ProxyRules
from tests.outbound.test_http import context
from tests.support.breached import RangeServer, sha1
from tests.support.certificates import Authority
from tests.support.clock import FakeClock
from tests.support.connect_proxy import proxying
from tests.support.logs import caught
from tests.support.provider import Handler, breaking_off, saying, serving

PASSWORD = "Correct-Horse-42-Staple"
PREFIX, SUFFIX = sha1(PASSWORD)[:5], sha1(PASSWORD)[5:]


def api(server: RangeServer, http: aiohttp.ClientSession, **more: object) -> RangeApi:
    found = open_ranges(server.asked_by(**more), http, DIRECT)
    assert found is not None
    return found


def test_nobody_is_asked_by_default(ranges: RangeServer, http: aiohttp.ClientSession) -> None:
    assert open_ranges(ranges.asked_by(address=None), http, DIRECT) is None


async def test_only_the_prefix_is_sent_and_padding_is_ignored(
    ranges: RangeServer, http: aiohttp.ClientSession
) -> None:
    ranges.counts[PASSWORD] = 7
    assert await api(ranges, http).fetch(PREFIX) == {SUFFIX: 7}
    assert ranges.asked == [f"/range/{PREFIX}"]
    [headers] = ranges.headers
    assert headers["Add-Padding"] == "true"
    sent = repr((ranges.asked, list(headers.items())))
    assert SUFFIX not in sent
    assert SUFFIX.lower() not in sent


async def test_answers_of_other_services_are_understood(
    ranges: RangeServer, http: aiohttp.ClientSession
) -> None:
    """Lower case, line feeds only, and no lines at all."""
    ranges.handler = saying(f"{SUFFIX.lower()}:2\n{'0' * 35}:00\n")
    assert await api(ranges, http).fetch(PREFIX) == {SUFFIX: 2}
    ranges.handler = saying("")
    assert await api(ranges, http).fetch(PREFIX) == {}


async def _silent(_request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    return web.Response()


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(f"{SUFFIX}:1\r\n".encode() * 1_000)


@pytest.mark.parametrize(
    "handler",
    [
        saying("", 429, retry_after="60"),
        saying(f"{SUFFIX}:1", 500),
        saying("", 404),
        saying("", 302, location="http://127.0.0.1:1/elsewhere"),
        saying("<html>Log in to the network</html>"),
        saying(f"{SUFFIX}:-1"),
        saying(f"{SUFFIX}:99999999999"),
        saying(f"{SUFFIX[1:]}:1"),
        saying(f"{SUFFIX}:1\r\n{SUFFIX}"),
        saying(b"\xff\xfe\x00"),
        breaking_off,
        _endless,
    ],
)
async def test_bad_answer_is_a_failure(
    handler: Handler, ranges: RangeServer, http: aiohttp.ClientSession
) -> None:
    ranges.handler = handler
    with caught() as lines, pytest.raises(ProviderUnavailable):
        await api(ranges, http).fetch(PREFIX)
    assert SUFFIX not in lines.getvalue()


async def test_slow_server_is_given_up(ranges: RangeServer, http: aiohttp.ClientSession) -> None:
    ranges.handler = _silent
    with pytest.raises(ProviderUnavailable):
        await api(ranges, http, timeout="50ms").fetch(PREFIX)


async def test_certificate_is_verified(
    tmp_path: Path, authority: Authority, clock: FakeClock
) -> None:
    ca_file, other = tmp_path / "own.crt", tmp_path / "other.crt"
    ca_file.write_bytes(authority.certificate)
    other.write_bytes(Authority("Another").certificate)
    server = RangeServer(clock)
    server.counts[PASSWORD] = 1
    async with (
        serving(server, context(tmp_path, authority, authority.server())),
        open_session() as session,
    ):
        found = await api(server, session, ca_file=ca_file).fetch(PREFIX)
        assert found == {SUFFIX: 1}
        with pytest.raises(ProviderMisconfigured):
            await api(server, session, ca_file=other).fetch(PREFIX)
        with pytest.raises(ProviderMisconfigured):
            await api(server, session).fetch(PREFIX)


async def test_proxy_is_used(ranges: RangeServer, http: aiohttp.ClientSession) -> None:
    async with proxying() as proxy:
        rules = ProxyRules({"http": proxy.address})
        found = open_ranges(ranges.asked_by(), http, rules)
        assert found is not None
        assert await found.fetch(PREFIX) == {}
        [asked] = proxy.asked
        assert re.fullmatch(rf"GET {ranges.address}/range/{PREFIX}", asked)


def test_unusable_ca_file_is_a_problem_of_the_settings(
    tmp_path: Path, ranges: RangeServer, http: aiohttp.ClientSession
) -> None:
    missing = ranges.asked_by(ca_file=tmp_path / "missing.crt")
    with pytest.raises(ConfigError) as error:
        open_ranges(missing, http, DIRECT)
    assert error.value.problems == ["passwords.breached.ca_file: No such file or directory"]


async def test_failure_is_logged_without_prefix(
    ranges: RangeServer, http: aiohttp.ClientSession
) -> None:
    ranges.handler = saying("", 503)
    with caught() as lines, pytest.raises(ProviderUnavailable):
        await api(ranges, http).fetch(PREFIX)
    assert "provider_failed" in lines.getvalue()
    assert PREFIX not in lines.getvalue()
