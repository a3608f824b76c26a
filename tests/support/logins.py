"""Logins as they are tested: replicas of the service, under the shipped limits or under none."""

import json
from collections import Counter
from collections.abc import AsyncIterator

import pytest_asyncio

from authsvc.config import (
    BruteForceSettings,
    PasswordSettings,
    PolicySettings,
    SecondFactorSettings,
)
from authsvc.store.postgres.database import Database
from tests.support.accounts import Service, cheap_passwords, key, unlimited
from tests.support.clock import FakeClock

PHONE = "phone-1"
ONE = PolicySettings.model_validate({"requests": 1, "window": "1h"})


class Replicas:
    """Starts services on one database and closes them at the end."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        self._database = database
        self._clock = clock
        self.started: list[Service] = []

    async def start(
        self,
        limits: BruteForceSettings | None = None,
        passwords: PasswordSettings | None = None,
        peppers: tuple[str, ...] = ("p1",),
        database: Database | None = None,
        factor_settings: SecondFactorSettings | None = None,
    ) -> Service:
        service = await Service(
            database or self._database,
            self._clock,
            limits or BruteForceSettings(),
            passwords or cheap_passwords(),
            tuple(key(pepper) for pepper in peppers),
            factor_settings=factor_settings or SecondFactorSettings(),
        ).start()
        self.started.append(service)
        return service


@pytest_asyncio.fixture
async def replicas(database: Database, clock: FakeClock) -> AsyncIterator[Replicas]:
    made = Replicas(database, clock)
    yield made
    for service in made.started:
        service.hasher.close()


@pytest_asyncio.fixture
async def limited(replicas: Replicas) -> Service:
    """Accounts under the shipped limits, with one account."""
    started = await replicas.start()
    await started.register()
    return started


@pytest_asyncio.fixture
async def free(replicas: Replicas) -> Service:
    """Accounts under no limit but that of consecutive failures, with one account."""
    started = await replicas.start(unlimited())
    await started.register()
    return started


async def value(database: Database, query: str) -> object:
    """Return the one value that a query asks for."""
    async with database.connection() as conn:
        return await conn.fetchval(query)


async def failures(database: Database) -> object:
    """Return how many logins of strangers failed in a row, if there is one account."""
    return await value(database, "SELECT failed_logins FROM users")


async def failures_of_devices(database: Database) -> object:
    """Return the same of logins from known devices."""
    return await value(database, "SELECT failed_device_logins FROM users")


async def causes(database: Database) -> Counter[str]:
    """Return how often each type of event, with its cause, was recorded."""
    async with database.connection() as conn:
        rows = await conn.fetch("SELECT type, detail FROM audit_events")
    return Counter(
        row["type"].removeprefix("user.") + ":" + json.loads(row["detail"]).get("cause", "")
        for row in rows
        if row["type"].startswith("user.login")
    )
