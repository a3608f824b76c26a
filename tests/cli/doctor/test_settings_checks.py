"""`authsvc doctor` names missing files and weak choices."""

from datetime import timedelta
from typing import Any

import pytest

from authsvc.cli.doctor.findings import Level
from authsvc.config import CallerSettings, OAuthSettings, Settings
from authsvc.config.cookies import CookieSettings
from authsvc.config.detections import SprayingSettings
from authsvc.models.calls import Role
from tests.support.doctor import examine, levels, only
from tests.support.probe import with_changes


async def test_missing_file_is_an_error(settings: Settings) -> None:
    assert await levels("settings.files", settings) == [Level.OK]
    settings.tls.key_file.unlink()
    text = await only(Level.ERROR, "settings.files", settings)
    assert text.startswith("tls.key_file: ")


async def test_address_of_another_machine_is_an_error(settings: Settings) -> None:
    assert await levels("settings.addresses", settings) == [Level.OK, Level.OK]
    elsewhere = with_changes(settings, "http", address="203.0.113.1:8081")
    text = await only(Level.ERROR, "settings.addresses", elsewhere)
    assert "not an address of this machine" in text


async def test_development_may_do_as_it_likes(production: Settings) -> None:
    here = with_changes(production, "tokens", issuer="http://127.0.0.1:8081")
    weak = with_changes(here, "log", level="debug")
    assert await levels("settings.choices", weak) == [Level.OK]


WEAK: list[tuple[str, dict[str, Any], str]] = [
    ("tokens", {"issuer": "https://authsvc.dev"}, "is the default"),
    ("tokens", {"issuer": "http://auth.example.com"}, "tokens.issuer is http"),
    ("tokens", {"algorithm": "HS256"}, "HS256"),
    ("tokens", {"access_lifetime": timedelta(days=2)}, "tokens.access_lifetime is 2d"),
    ("sessions", {"cache_staleness": timedelta(seconds=5)}, "sessions.cache_staleness is 5s"),
    ("sessions", {"cookie": CookieSettings(name="s", secure=False)}, "cookie.secure is off"),
    ("sessions", {"cookie": CookieSettings(http_only=False)}, "cookie.http_only is off"),
    ("delivery", {"channel": "none"}, "delivery.channel is none"),
    ("delivery", {"channel": "folder"}, "delivery.channel is folder"),
    ("encryption", {"missing_keys": "warn"}, "encryption.missing_keys is warn"),
    ("blocks", {"automatic": False}, "blocks.automatic is off"),
    ("detections", {"password_spraying": SprayingSettings(enabled=False)}, "password_spraying"),
    ("passkeys", {"relying_party_id": "localhost"}, "relying_party_id is localhost"),
    ("log", {"level": "debug"}, "log.level is debug"),
]


@pytest.mark.parametrize(("section", "changes", "said"), WEAK, ids=[said for *_, said in WEAK])
async def test_weak_choice_is_named(
    production: Settings, section: str, changes: dict[str, Any], said: str
) -> None:
    assert await levels("settings.choices", production) == [Level.OK]
    weak = with_changes(production, section, **changes)
    assert said in await only(Level.WARNING, "settings.choices", weak)


@pytest.mark.parametrize(
    ("callers", "said"),
    [
        ([], "callers is empty"),
        ([("spiffe://authsvc.dev/app", {Role.APP})], "an identity of development"),
        ([("spiffe://a/b", {Role.APP, Role.ADMIN})], "has the roles admin, app together"),
    ],
)
async def test_weak_callers_are_named(
    production: Settings, callers: list[tuple[str, set[Role]]], said: str
) -> None:
    made = tuple(CallerSettings(identity=name, roles=frozenset(roles)) for name, roles in callers)
    weak = production.model_copy(update={"callers": made})
    assert said in await only(Level.WARNING, "settings.choices", weak)


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("postgresql://a:hidden@db.example.com/x", True),
        ("postgresql://a:hidden@db.example.com/x?sslmode=require", True),
        ("postgresql://a:hidden@db.example.com/x?sslmode=verify-full", False),
        ("postgresql://a:hidden@127.0.0.1/x", False),
        ("postgresql://a:hidden@/x?host=/run/postgresql", False),
    ],
)
async def test_unverified_database_is_named_without_its_password(
    production: Settings, url: str, warned: bool
) -> None:
    database = production.database.model_validate({"url": url})
    found = await examine("settings.choices", production.model_copy(update={"database": database}))
    assert [each.level is Level.WARNING for each in found] == [warned]
    assert "hidden" not in str(found)
    assert not warned or "reaches db.example.com with sslmode=" in found[0].text


async def test_redirect_to_the_users_machine_is_named(production: Settings) -> None:
    oauth = OAuthSettings(redirect_uris=("http://localhost:8080/callback",))
    weak = production.model_copy(update={"oauth": oauth})
    assert "oauth.redirect_uris" in await only(Level.WARNING, "settings.choices", weak)


async def test_who_reads_metrics_is_told(settings: Settings) -> None:
    assert "this machine only" in await only(Level.OK, "settings.exposure", settings)
    everywhere = with_changes(settings, "http", address="0.0.0.0:8081")
    assert "plain HTTP" in await only(Level.OK, "settings.exposure", everywhere)
    secured = with_changes(everywhere, "http", tls=settings.tls)
    assert "client certificate" in await only(Level.OK, "settings.exposure", secured)
