"""`authsvc doctor` names limits that don't protect, in the settings and made at run time."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from authsvc.cli.doctor import limit_checks
from authsvc.cli.doctor.findings import Level
from authsvc.config import NamedPolicySettings, PolicySettings, Settings
from authsvc.core.lib.clock import SystemClock
from authsvc.models.limits import Effect, Override, Policy
from authsvc.models.roles import Lifetimes, RoleDefinition
from authsvc.store import policies, roles
from authsvc.store.postgres.connector import Connection
from authsvc.store.postgres.database import Database
from tests.support.databases import settings_for
from tests.support.doctor import examine, levels, only
from tests.support.probe import with_changes

HOUR = timedelta(hours=1)
NOW = SystemClock().now()

LOOSE: list[tuple[str, dict[str, Any], str]] = [
    (
        "brute_force",
        {"per_account": PolicySettings(requests=100, window=timedelta(hours=1))},
        "2,400 failed attempts a day",
    ),
    (
        "rate_limits",
        {"policies": {"api": NamedPolicySettings(requests=5, window=timedelta(hours=1), burst=9)}},
        "burst 9 is more than its requests 5",
    ),
    (
        "rate_limits",
        {
            "policies": {
                "login": NamedPolicySettings(requests=5, window=timedelta(hours=1), shadow=True)
            }
        },
        "login refuses nothing",
    ),
    ("blocks", {"allow": frozenset({"0.0.0.0/0"})}, "blocks.allow has 0.0.0.0/0"),
    ("grpc", {"max_connections_per_caller": 1_000}, "one caller can take all"),
    ("grpc", {"call_timeout": timedelta(seconds=1)}, "shorter than database.acquire_timeout"),
    ("grpc", {"drain_timeout": timedelta(seconds=5)}, "grpc.drain_timeout is shorter"),
]


@pytest.mark.parametrize(("section", "changes", "said"), LOOSE, ids=[said for *_, said in LOOSE])
async def test_limit_that_protects_nothing_is_named(
    production: Settings, section: str, changes: dict[str, Any], said: str
) -> None:
    assert await levels("settings.limits", production) == [Level.OK]
    loose = with_changes(production, section, **changes)
    assert said in await only(Level.WARNING, "settings.limits", loose)


# Made at run time


@pytest.fixture
def stored(production: Settings, database_dsn: str) -> Settings:
    """Settings of production, with this test's own database."""
    return production.model_copy(update={"database": settings_for(database_dsn)})


@pytest_asyncio.fixture
async def connection(database: Database) -> AsyncIterator[Connection]:
    """A connection to that database."""
    async with database.connection() as connection:
        yield connection


def policy(name: str, **more: Any) -> Policy:
    values: dict[str, Any] = {"requests": 10, "window": HOUR}
    return Policy(name, **values | more)


def override(policy: str, key: str = "k", **more: Any) -> Override:
    values: dict[str, Any] = {"effect": Effect.ALLOW}
    return Override(policy, key, **values | more)


async def test_definitions_of_run_time_are_counted(
    stored: Settings, connection: Connection
) -> None:
    for made in (policy("search"), policy("watched", shadow=True), policy("free", unlimited=True)):
        await policies.put(connection, made, NOW)
    for each in (
        override("search"),
        override("api", effect=Effect.NUMBERS, requests=5, burst=5),
        override("login", "end", expire_time=NOW + HOUR),
        # Its numbers are of no effect.
        override("login", "deny", effect=Effect.DENY, requests=5, burst=6),
        # Expired, so it is not looked at.
        override("nowhere", expire_time=NOW - HOUR),
    ):
        await policies.put_override(connection, each, NOW)
    text = await only(Level.OK, "database.definitions", stored)
    assert text == "3 policies, 4 overrides and 0 roles; unlimited or in shadow: free, watched"


async def test_policy_of_run_time_is_held_to_the_rules_of_the_settings(
    stored: Settings, connection: Connection
) -> None:
    await policies.put(connection, policy("search", burst=11), NOW)
    await policies.put(connection, policy("never", requests=0, burst=11), NOW)
    text = await only(Level.WARNING, "database.definitions", stored)
    assert text.startswith("the policy search: burst 11 is more than its requests 10")


async def test_definition_that_the_settings_overrule_is_named(
    stored: Settings, connection: Connection
) -> None:
    # Its numbers are of no effect, so they are not judged.
    await policies.put(connection, policy("api", burst=11), NOW)
    found = await examine("database.definitions", stored)
    assert [each.text for each in found] == [
        "the policy api of run time is overruled by the one of the settings"
    ]
    assert "`authsvc policies delete api`" in found[0].remedy
    await policies.delete(connection, "api")
    role = RoleDefinition("user", ("read",), lifetimes=Lifetimes())
    await roles.put(connection, role, NOW)
    text = await only(Level.WARNING, "database.definitions", stored)
    assert text == "the role user of run time is overruled by the one of the settings"


OVERRIDES: list[tuple[Override, str]] = [
    (override("gone"), "1 overrides are of the policy gone, which there isn't"),
    (
        override("api", effect=Effect.NUMBERS, requests=5, burst=6),
        "1 overrides of the policy api have a burst that is more than their requests",
    ),
    (override("login"), "the policy login refuses nothing to 1 keys, without an end"),
]


@pytest.mark.parametrize(("made", "said"), OVERRIDES, ids=[said for _, said in OVERRIDES])
async def test_override_that_does_not_protect_is_named_without_its_key(
    stored: Settings, connection: Connection, made: Override, said: str
) -> None:
    await policies.put_override(connection, made, NOW)
    [found] = await examine("database.definitions", stored)
    assert found.level is Level.WARNING
    assert said in found.text
    assert f"`authsvc policies overrides {made.policy}`" in found.remedy


async def test_lack_of_room_for_definitions_is_named(
    stored: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit_checks, "MAX_POLICIES", 10)
    for number in range(8):
        await policies.put(connection, policy(f"p{number}"), NOW)
    assert await levels("database.definitions", stored) == [Level.OK]
    await policies.put(connection, policy("p8"), NOW)
    text = await only(Level.WARNING, "database.definitions", stored)
    assert text == "there are 9 policies of 10 that there may be"
    monkeypatch.setattr(limit_checks, "MAX_POLICIES", 100)
    monkeypatch.setattr(limit_checks, "MAX_OVERRIDES", 1)
    await policies.put_override(connection, override("api"), NOW)
    text = await only(Level.WARNING, "database.definitions", stored)
    assert text == "there are 1 overrides of 1 that there may be"
