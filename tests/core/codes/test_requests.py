"""The limits on requests for codes: what is charged, and how limits change at runtime."""

from uuid import UUID

import pytest

from authsvc.config import BruteForceSettings
from authsvc.core.codes.one_time_codes import Purpose
from authsvc.core.codes.requests import CodeLimits
from authsvc.errors import TooManyAttempts
from authsvc.models.calls import ClientContext
from authsvc.models.ids import UserId
from authsvc.store.postgres.database import Database
from tests.support.accounts import KEYRING
from tests.support.codes import outcome, unlimited_codes

ONE = {"requests": 1, "window": "1h"}
LOGIN = Purpose.LOGIN
REFUSED = "TOO_MANY_ATTEMPTS"


def limits(database: Database, **changes: object) -> CodeLimits:
    return CodeLimits(
        database=database,
        settings=unlimited_codes(**changes),
        networks=BruteForceSettings(),
        keyring=KEYRING,
    )


async def charged(made: CodeLimits, *mailed: str, ip: str | None = None, user: int = 0) -> str:
    user_id = UserId(UUID(int=user)) if user else None
    return await outcome(made.charge(LOGIN, mailed, ClientContext(ip), user_id))


async def test_requests_from_one_network_share_a_limit(database: Database) -> None:
    made = limits(database, requests_per_ip=ONE)
    ends = [
        await charged(made, f"{number}@example.test", ip=ip)
        for number, ip in enumerate(
            ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]
        )
    ]
    assert ends == ["OK", REFUSED, "OK", "OK", REFUSED]


async def test_refusal_names_the_address_only_if_its_own_limit_is_reached(
    database: Database,
) -> None:
    made = limits(database, requests_per_ip=ONE, requests_per_address=ONE)
    assert await charged(made, "a@b.test", ip="192.0.2.1") == "OK"
    for ip, named in (("192.0.2.1", "192.0.2.1"), ("192.0.2.2", None)):
        with pytest.raises(TooManyAttempts) as refused:
            await made.charge(LOGIN, ["a@b.test"], ClientContext(ip))
        assert refused.value.ip == named


async def test_requests_without_ip_are_limited_by_address(database: Database) -> None:
    made = limits(database, requests_per_ip=ONE, requests_per_address=ONE)
    ends = [await charged(made, address) for address in ("a@b.test", "b@b.test", "a@b.test")]
    assert ends == ["OK", "OK", REFUSED]


async def test_rejected_request_is_not_charged(database: Database) -> None:
    made = limits(database, requests_per_address=ONE)
    assert await charged(made, "a@b.test") == "OK"
    assert await charged(made, "b@b.test", "a@b.test") == REFUSED
    assert await charged(made, "b@b.test") == "OK"


async def test_users_requesting_same_address_do_not_delay_each_other(
    database: Database,
) -> None:
    made = limits(database, resend_interval="60s")
    for user in (1, 2):
        assert await charged(made, "a@b.test", user=user) == "OK"
        assert await charged(made, "a@b.test", user=user) == REFUSED


async def test_settings_are_replaced_at_runtime(database: Database) -> None:
    made = limits(database)
    assert [await charged(made, "a@b.test") for _ in range(3)] == ["OK"] * 3
    strict = unlimited_codes(resend_interval="1h")
    made.replace_settings(strict, BruteForceSettings())
    assert [await charged(made, "a@b.test") for _ in range(2)] == ["OK", REFUSED]
    made.replace_settings(unlimited_codes(), BruteForceSettings())
    assert await charged(made, "a@b.test") == "OK"


async def test_limits_on_codes_are_durable(database: Database) -> None:
    assert {policy.durable for policy in limits(database)._limiter.policies()} == {True}
