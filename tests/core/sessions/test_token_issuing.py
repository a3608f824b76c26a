"""The Set-Cookie headers of sessions, as Python's parser and a real cookie jar read them."""

import http.cookies
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from yarl import URL

from authsvc.config import CookieSettings
from authsvc.core.sessions.secrets import new_session_token
from authsvc.core.sessions.token_issuing import SessionCookies
from tests.support.clock import FakeClock

HOUR = timedelta(hours=1)


def cookies(clock: FakeClock, **settings: Any) -> SessionCookies:
    return SessionCookies(CookieSettings.model_validate(settings), clock)


def read(header: str) -> http.cookies.Morsel[str]:
    """Return the one cookie of a Set-Cookie header."""
    [morsel] = http.cookies.SimpleCookie(header).values()
    return morsel


def test_without_settings_there_is_no_header(clock: FakeClock) -> None:
    none = SessionCookies(None, clock)
    assert (none.setting("token", clock.now() + HOUR), none.removal()) == ("", "")


def test_attributes_are_those_of_the_settings(clock: FakeClock) -> None:
    token = new_session_token()
    header = cookies(clock).setting(token, clock.now() + HOUR)
    assert header == (
        f"__Host-session={token}; Max-Age=3600; Path=/; Secure; HttpOnly; SameSite=Lax"
    )
    other = cookies(
        clock,
        name="sid",
        secure=False,
        http_only=False,
        same_site="strict",
        domain="example.com",
        path="/app",
    )
    assert other.setting(token, clock.now() + HOUR) == (
        f"sid={token}; Max-Age=3600; Path=/app; Domain=example.com; SameSite=Strict"
    )


@pytest.mark.parametrize("same_site", ["strict", "lax", "none"])
def test_python_reads_what_was_set(same_site: str, clock: FakeClock) -> None:
    token = new_session_token()
    jar = cookies(clock, name="__Secure-sid", domain="example.com", same_site=same_site)
    morsel = read(jar.setting(token, clock.now() + 90 * HOUR))
    assert (morsel.key, morsel.value, morsel.coded_value) == ("__Secure-sid", token, token)
    assert (morsel["max-age"], morsel["path"]) == (str(90 * 3_600), "/")
    assert (morsel["domain"], morsel["samesite"].lower()) == ("example.com", same_site)
    assert (morsel["secure"], morsel["httponly"]) == (True, True)
    # It ends with its session, whatever the time of day.
    clock.advance(HOUR)
    assert read(jar.setting(token, clock.now() + HOUR))["max-age"] == "3600"


async def test_cookie_jar_sends_and_removes_it(clock: FakeClock) -> None:
    token = new_session_token()
    jar = aiohttp.CookieJar()
    ours = cookies(clock, name="__Secure-sid", domain="example.com", path="/app")
    site = URL("https://www.example.com/app/login")

    def receive(header: str) -> None:
        jar.update_cookies(http.cookies.SimpleCookie(header), site)

    def sent(url: str) -> dict[str, str]:
        return {name: found.value for name, found in jar.filter_cookies(URL(url)).items()}

    receive(ours.setting(token, clock.now() + HOUR))
    assert sent("https://example.com/app") == {"__Secure-sid": token}
    assert sent("https://api.example.com/app/x") == {"__Secure-sid": token}
    assert sent("http://example.com/app") == {}
    assert sent("https://example.com/") == {}
    assert sent("https://example.org/app") == {}
    receive(ours.removal())
    assert sent("https://example.com/app") == {}
