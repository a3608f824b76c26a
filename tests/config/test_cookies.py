"""The settings of the session's cookie: what browsers would refuse is rejected by name."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from authsvc.config import ConfigError, CookieSettings, load


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"name": "sid", "secure": False},
        {"name": "__Secure-sid", "domain": "example.com", "path": "/app"},
        {"name": "sid", "domain": "a.b-c.example.co.uk", "same_site": "none"},
        {"name": "sid", "path": "/a/b?c=d&e,'f'"},
        {"same_site": "strict", "http_only": False},
        {"name": "!#$%&'*+-.^_`|~"},
    ],
)
def test_sound_cookies_are_accepted(values: dict[str, Any]) -> None:
    CookieSettings.model_validate(values)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"name": "sid", "same_site": "none", "secure": False}, "same_site = "),
        ({"name": "__Host-sid", "domain": "example.com"}, "excludes a domain"),
        ({"name": "__host-sid", "domain": "example.com"}, "excludes a domain"),
        ({"name": "__Host-sid", "path": "/app"}, 'requires path = "/"'),
        ({"name": "__Host-sid", "secure": False}, "requires secure"),
        ({"name": "__Secure-sid", "secure": False}, "requires secure"),
        ({"name": "__SECURE-sid", "secure": False}, "requires secure"),
        ({"name": "__Secure-sid", "secure": False, "same_site": "none"}, "requires secure"),
        ({"name": ""}, "expected 1 to 64"),
        ({"name": "a b"}, "expected 1 to 64"),
        ({"name": "a=b"}, "expected 1 to 64"),
        ({"name": "a;b"}, "expected 1 to 64"),
        ({"name": "a\r\nSet-Cookie: x"}, "expected 1 to 64"),
        ({"name": "sid\n"}, "expected 1 to 64"),
        ({"name": "süß"}, "expected 1 to 64"),
        ({"name": "x" * 65}, "expected 1 to 64"),
        ({"path": "app"}, "expected a path"),
        ({"path": ""}, "expected a path"),
        ({"path": "/a;b"}, "expected a path"),
        ({"path": "/a b"}, "expected a path"),
        ({"path": "/\x7f"}, "expected a path"),
        ({"path": "/" + "x" * 256}, "expected a path"),
        ({"domain": ""}, "expected a domain"),
        ({"domain": ".example.com"}, "expected a domain"),
        ({"domain": "example.com."}, "expected a domain"),
        ({"domain": "Example.com"}, "expected a domain"),
        ({"domain": "localhost"}, "expected a domain"),
        ({"domain": "com"}, "expected a domain"),
        ({"domain": "192.0.2.1"}, "expected a domain"),
        ({"domain": "2001:db8::1"}, "expected a domain"),
        ({"domain": "example.com; Path=/"}, "expected a domain"),
        ({"domain": "example.com:443"}, "expected a domain"),
        ({"domain": "-a.example.com"}, "expected a domain"),
        ({"domain": "bücher.example"}, "expected a domain"),
        ({"name": "sid", "domain": ".".join(["a" * 60] * 5) + ".com"}, "at most 253"),
        ({"same_site": "Lax"}, "'strict', 'lax' or 'none'"),
        ({"max_age": 5}, "Extra inputs"),
    ],
)
def test_unsound_cookies_are_rejected_by_name(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        CookieSettings.model_validate(values)


def test_loading_names_the_setting(config: Path, secrets: Path) -> None:
    config.write_text(
        config.read_text()
        + '\n[sessions.cookie]\nname = "sid"\nsame_site = "none"\nsecure = false\n'
    )
    with pytest.raises(ConfigError) as raised:
        load(config, secrets_dir=secrets)
    [problem] = raised.value.problems
    assert problem.startswith("sessions.cookie: ")
    assert 'same_site = "none" requires secure = true' in problem
