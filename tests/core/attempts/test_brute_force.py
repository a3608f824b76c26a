"""The limits on guessing: what counts together, what is refunded, and what the table reveals."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import pytest
import pytest_asyncio

from authsvc.config import BruteForceSettings, PolicySettings
from authsvc.core.attempts.brute_force import BruteForce, ChargeReceipt
from authsvc.core.lib.sealing import Keyring
from authsvc.errors import TooManyAttempts
from authsvc.models.calls import ClientContext
from authsvc.models.ids import UserId
from authsvc.store.postgres.database import Database
from tests.support.accounts import IP, KEYRING, OTHER_IP, key
from tests.support.databases import opened

ADA = "ada@example.test"
BOB = "bob@example.test"
DEVICE = b"d" * 32


def _limits(**changes: object) -> BruteForceSettings:
    """Return limits of 3 an account and ip, 5 an account, 8 an ip, 2 a known device."""

    def policy(requests: int, window: str) -> PolicySettings:
        return PolicySettings.model_validate({"requests": requests, "window": window})

    return BruteForceSettings.model_validate(
        {
            "per_account_and_ip": policy(3, "5m"),
            "per_account": policy(5, "1h"),
            "per_ip": policy(8, "10m"),
            "per_known_device": policy(2, "1h"),
            "registrations_per_ip": policy(4, "1h"),
        }
        | changes
    )


@pytest.fixture
def brute_force(database: Database) -> BruteForce:
    return BruteForce(database, _limits(), KEYRING)


@pytest_asyncio.fixture
async def replica(database_dsn: str) -> AsyncIterator[BruteForce]:
    """Another process's brute_force on the same database."""
    async with opened(database_dsn) as database:
        yield BruteForce(database, _limits(), KEYRING)


async def _charge(
    brute_force: BruteForce, account: str = ADA, ip: str | None = IP, device: bytes | None = None
) -> ChargeReceipt:
    return await brute_force.charge_guess(account, ClientContext(ip), device)


async def _allowed(
    brute_force: BruteForce,
    attempts: int,
    account: str = ADA,
    ip: str | None = IP,
    device: bytes | None = None,
) -> int:
    """Return how many of so many attempts in a row are allowed."""
    allowed = 0
    for _ in range(attempts):
        try:
            await _charge(brute_force, account, ip, device)
        except TooManyAttempts:
            continue
        allowed += 1
    return allowed


async def test_attempts_are_limited_per_account_and_ip(brute_force: BruteForce) -> None:
    assert await _allowed(brute_force, 5) == 3
    assert await _allowed(brute_force, 1, ip=OTHER_IP) == 1
    assert await _allowed(brute_force, 1, account=BOB) == 1


async def test_attempts_are_limited_per_account(brute_force: BruteForce) -> None:
    allowed = [await _allowed(brute_force, 1, ip=f"192.0.2.{host}") for host in range(1, 8)]
    assert allowed == [1] * 5 + [0] * 2


async def test_attempts_are_limited_per_ip(brute_force: BruteForce) -> None:
    allowed = [await _allowed(brute_force, 1, account=f"user{n}@example.test") for n in range(10)]
    assert allowed == [1] * 8 + [0] * 2


@pytest.mark.slow
async def test_rejected_attempt_is_not_charged(brute_force: BruteForce) -> None:
    assert await _allowed(brute_force, 50) == 3
    assert await _allowed(brute_force, 50, ip=OTHER_IP) == 2
    assert await _allowed(brute_force, 50, account=BOB) == 3
    assert await _allowed(brute_force, 50, account="eve@example.test") == 2


async def test_retry_after_is_that_of_longest_limit(brute_force: BruteForce) -> None:
    await _allowed(brute_force, 3)
    with pytest.raises(TooManyAttempts) as by_ip:
        await _charge(brute_force)
    # One of 3 in 5 minutes comes back after 100 s, one of 5 in an hour after 720 s.
    assert 0 < by_ip.value.retry_after <= 100
    await _allowed(brute_force, 2, ip=OTHER_IP)
    with pytest.raises(TooManyAttempts) as by_both:
        await _charge(brute_force)
    assert 100 < by_both.value.retry_after <= 720
    assert by_both.value.subject == "login"


async def test_concurrent_attempts_never_exceed_limit(
    brute_force: BruteForce, replica: BruteForce
) -> None:
    outcomes = await asyncio.gather(
        *(_charge((brute_force, replica)[n % 2]) for n in range(60)), return_exceptions=True
    )
    assert sum(isinstance(outcome, ChargeReceipt) for outcome in outcomes) == 3
    assert sum(isinstance(outcome, TooManyAttempts) for outcome in outcomes) == 57


async def test_refund_restores_every_charge(brute_force: BruteForce) -> None:
    for _ in range(20):
        await (await _charge(brute_force)).refund()
    assert await _allowed(brute_force, 5) == 3
    assert await _allowed(brute_force, 5, ip=OTHER_IP) == 2


async def test_refund_takes_effect_immediately_on_all_replicas(
    brute_force: BruteForce, replica: BruteForce
) -> None:
    receipts = [await _charge(brute_force) for _ in range(3)]
    assert await _allowed(replica, 2) == 0
    await receipts[0].refund()
    assert await _allowed(replica, 2) == 1


async def test_failed_refund_raises_nothing(database_dsn: str) -> None:
    async with opened(database_dsn) as database:
        receipt = await _charge(BruteForce(database, _limits(), KEYRING))
    await receipt.refund()


async def test_strangers_do_not_use_up_known_device_limit(brute_force: BruteForce) -> None:
    for host in range(1, 10):
        await _allowed(brute_force, 1, ip=f"198.51.100.{host}")
    assert await _allowed(brute_force, 1) == 0
    assert await _allowed(brute_force, 5, device=DEVICE) == 2


async def test_known_device_has_a_limit_per_account(brute_force: BruteForce) -> None:
    assert await _allowed(brute_force, 5, device=DEVICE) == 2
    assert await _allowed(brute_force, 5, account=BOB, device=DEVICE) == 2
    assert await _allowed(brute_force, 5, device=b"another") == 2


async def test_known_device_is_charged_to_ip_but_not_to_account(
    brute_force: BruteForce,
) -> None:
    await _allowed(brute_force, 2, device=DEVICE)
    assert await _allowed(brute_force, 9, ip=OTHER_IP) == 3
    allowed = [await _allowed(brute_force, 1, account=f"user{n}@example.test") for n in range(10)]
    assert sum(allowed) == 6


async def test_attempts_without_ip_are_limited_by_account_only(brute_force: BruteForce) -> None:
    assert await _allowed(brute_force, 9, ip=None) == 5
    assert await _allowed(brute_force, 9, account=BOB, ip=None) == 5
    assert await _allowed(brute_force, 9, ip=None, device=DEVICE) == 2


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "::ffff:c000:202", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
    ],
)
async def test_addresses_in_one_network_share_a_limit(
    brute_force: BruteForce, one: str, other: str, together: bool
) -> None:
    await _allowed(brute_force, 3, ip=one)
    assert await _allowed(brute_force, 1, ip=other) == (not together)


async def test_network_prefix_length_is_configurable(database: Database) -> None:
    brute_force = BruteForce(database, _limits(ipv4_prefix=24, ipv6_prefix=48), KEYRING)
    await _allowed(brute_force, 2, ip="192.0.2.1")
    assert await _allowed(brute_force, 5, ip="192.0.2.254") == 1
    await _allowed(brute_force, 1, account=BOB, ip="2001:db8:0:1::1")
    assert await _allowed(brute_force, 5, account=BOB, ip="2001:db8:0:2::1") == 2


async def test_registrations_are_charged_per_ip_without_refund(brute_force: BruteForce) -> None:
    for _ in range(4):
        await brute_force.charge_registration(ClientContext(IP))
    with pytest.raises(TooManyAttempts) as refused:
        await brute_force.charge_registration(ClientContext(IP))
    assert refused.value.subject == "registration"
    await brute_force.charge_registration(ClientContext(OTHER_IP))
    assert await _allowed(brute_force, 1) == 1


async def test_registrations_without_ip_are_not_charged(brute_force: BruteForce) -> None:
    for _ in range(10):
        await brute_force.charge_registration(ClientContext())


async def test_new_settings_apply_from_next_attempt(brute_force: BruteForce) -> None:
    await _allowed(brute_force, 3)
    one = PolicySettings.model_validate({"requests": 1, "window": "1h"})
    brute_force.replace_settings(_limits(per_account=one, max_consecutive_failures=7))
    assert brute_force.max_failures(known_device=False) == 4
    assert brute_force.max_failures(known_device=True) == 3
    assert await _allowed(brute_force, 5, account=BOB) == 1


async def test_limits_table_contains_no_identifiers(
    database: Database, brute_force: BruteForce
) -> None:
    await _charge(brute_force)
    await _charge(brute_force, device=DEVICE)
    await brute_force.charge_registration(ClientContext(IP))
    async with database.connection() as conn:
        rows = [str(row) for row in await conn.fetch("SELECT limits FROM rate_limits limits")]
    assert len(rows) == 5
    for text in (ADA, IP, DEVICE.hex()):
        assert not any(text in row for row in rows)


async def test_limit_keys_depend_on_keyring(database: Database) -> None:
    keys = []
    for ring in (KEYRING, Keyring([key("k2")])):
        brute_force = BruteForce(database, _limits(), ring)
        async with database.connection() as conn:
            await conn.execute("DELETE FROM rate_limits")
            await _charge(brute_force)
            keys.append(
                {str(row["key"]) for row in await conn.fetch("SELECT key FROM rate_limits")}
            )
    assert not keys[0] & keys[1]


async def test_registrations_are_limited_per_address(database: Database) -> None:
    two = PolicySettings.model_validate({"requests": 2, "window": "1h"})
    brute_force = BruteForce(database, _limits(registrations_per_address=two), KEYRING)
    for _ in range(2):
        await brute_force.charge_registered_address(ADA)
    with pytest.raises(TooManyAttempts) as refused:
        await brute_force.charge_registered_address(ADA)
    assert refused.value.subject == "registration"
    await brute_force.charge_registered_address(BOB)


async def test_retry_after_below_a_second_is_not_rounded_up(database: Database) -> None:
    two = PolicySettings.model_validate({"requests": 2, "window": "1s"})
    brute_force = BruteForce(database, _limits(per_account_and_ip=two), KEYRING)
    outcomes = await asyncio.gather(
        *(_charge(brute_force) for _ in range(10)), return_exceptions=True
    )
    # All but the first are decided at one time, so at least some of them are rejected.
    waits = [outcome.retry_after for outcome in outcomes if isinstance(outcome, TooManyAttempts)]
    assert waits
    assert max(waits) <= 0.5


@pytest.mark.parametrize("by", ["passkey", "oauth"])
async def test_started_logins_are_limited_per_ip(database: Database, by: str) -> None:
    two = PolicySettings.model_validate({"requests": 2, "window": "1h"})
    limits = _limits(**{"passkey_logins_per_ip" if by == "passkey" else "oauth_logins_per_ip": two})
    brute_force = BruteForce(database, limits, KEYRING)
    charge = brute_force.charge_passkey_login if by == "passkey" else brute_force.charge_oauth
    for _ in range(2):
        await charge(ClientContext(IP))
    with pytest.raises(TooManyAttempts) as refused:
        await charge(ClientContext(IP))
    assert refused.value.subject == "login"
    await charge(ClientContext(OTHER_IP))
    for _ in range(3):
        await charge(ClientContext())


async def test_refund_of_single_charge_takes_effect_immediately_on_all_replicas(
    database: Database,
) -> None:
    one = PolicySettings.model_validate({"requests": 1, "window": "1h"})
    here, there = [BruteForce(database, _limits(api_keys_per_user=one), KEYRING) for _ in range(2)]
    user_id = UserId(UUID(int=1))
    receipt = await here.charge_api_key(user_id)
    with pytest.raises(TooManyAttempts):
        await there.charge_api_key(user_id)
    await receipt.refund()
    await there.charge_api_key(user_id)


async def test_limits_on_guessing_are_durable(brute_force: BruteForce) -> None:
    for settings in (_limits(), BruteForceSettings()):
        brute_force.replace_settings(settings)
        assert {policy.durable for policy in brute_force._limiter.policies()} == {True}


async def test_refusal_names_the_address_only_if_its_own_limit_is_reached(
    database: Database,
) -> None:
    one, many = {"requests": 1, "window": "1h"}, {"requests": 99, "window": "1h"}
    free = dict.fromkeys(("per_account", "per_account_and_ip", "per_ip", "per_known_device"), many)
    here, client = ClientContext(IP), b"phone"
    limited: dict[str, Callable[[BruteForce], Awaitable[object]]] = {
        "per_account_and_ip": lambda made: made.charge_guess(ADA, here, None),
        "per_ip": lambda made: made.charge_guess(ADA, here, client),
        "proofs_per_ip": lambda made: made.charge_proof(here),
        "registrations_per_ip": lambda made: made.charge_registration(here),
        "passkey_logins_per_ip": lambda made: made.charge_passkey_login(here),
        "oauth_logins_per_ip": lambda made: made.charge_oauth(here),
        "per_account": lambda made: made.charge_guess("b@b.test", here, None),
        "per_known_device": lambda made: made.charge_guess("c@b.test", here, client),
    }
    for number, (name, charge) in enumerate(limited.items()):
        # Each with an address of its own, as they share the table of limits.
        here = ClientContext(f"192.0.2.{number}")
        brute_force = BruteForce(database, _limits(**free | {name: one}), KEYRING)
        await charge(brute_force)
        with pytest.raises(TooManyAttempts) as refused:
            await charge(brute_force)
        is_own = name not in {"per_account", "per_known_device"}
        assert (name, refused.value.ip) == (name, here.ip if is_own else None)
