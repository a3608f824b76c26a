"""The limits on logins: shared by all replicas, exact under races, of no use to strangers."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from authsvc.config import BruteForceSettings, PolicySettings
from authsvc.core.attempts.attempts import Attempts, Cause
from authsvc.core.attempts.brute_force import BruteForce, ChargeReceipt
from authsvc.errors import StoreUnavailable, TooManyAttempts
from authsvc.models.calls import ClientContext
from authsvc.store.postgres.database import Database
from tests.support.accounts import (
    CALL,
    CLI,
    EMAIL,
    IP,
    KEYRING,
    OTHER_IP,
    PASSWORD,
    WRONG,
    Service,
    unlimited,
)
from tests.support.clock import FakeClock
from tests.support.databases import opened
from tests.support.logins import PHONE, Replicas, causes, failures, failures_of_devices, value


@pytest.mark.slow
async def test_concurrent_guesses_never_exceed_limit(
    limited: Service, replicas: Replicas, database: Database
) -> None:
    other = await replicas.start()
    outcomes = await asyncio.gather(
        *((limited, other)[n % 2].login(f"{WRONG}{n}") for n in range(100))
    )
    allowed = BruteForceSettings().per_account_and_ip.requests
    assert Counter(outcomes) == {
        "CREDENTIALS_INVALID": allowed,
        "TOO_MANY_ATTEMPTS": 100 - allowed,
    }
    assert limited.hasher.compared + other.hasher.compared == allowed
    assert await failures(database) == allowed


async def test_replicas_share_the_limits(limited: Service, replicas: Replicas) -> None:
    other = await replicas.start()
    for _ in range(4):
        assert await limited.login(WRONG) == "CREDENTIALS_INVALID"
    assert await other.login(WRONG) == "CREDENTIALS_INVALID"
    assert await other.login() == "TOO_MANY_ATTEMPTS"
    assert await limited.login() == "TOO_MANY_ATTEMPTS"


async def test_correct_password_is_throttled_once_limit_is_reached(limited: Service) -> None:
    for _ in range(5):
        await limited.login(WRONG)
    with pytest.raises(TooManyAttempts) as refused:
        await limited.log_in(CALL, EMAIL, PASSWORD, ClientContext(IP))
    assert refused.value.retry_after > 0
    assert limited.hasher.compared == 5


async def test_only_failures_count_toward_limit(limited: Service) -> None:
    for _ in range(4):
        assert await limited.login(WRONG) == "CREDENTIALS_INVALID"
    for _ in range(12):
        assert await limited.login() == "OK"
    assert await limited.login(WRONG) == "CREDENTIALS_INVALID"
    assert await limited.login() == "TOO_MANY_ATTEMPTS"


@pytest.mark.slow
async def test_strangers_do_not_lock_out_known_device(limited: Service) -> None:
    assert await limited.login(device=PHONE) == "OK"
    strangers = [
        await limited.login(WRONG, ip=f"198.51.100.{host}", device="another") for host in range(25)
    ]
    assert Counter(strangers) == {"CREDENTIALS_INVALID": 20, "TOO_MANY_ATTEMPTS": 5}
    assert await limited.login() == "TOO_MANY_ATTEMPTS"
    assert await limited.login(device="new") == "TOO_MANY_ATTEMPTS"
    assert await limited.login(device=PHONE) == "OK"


async def test_known_device_has_its_own_limits(limited: Service, database: Database) -> None:
    await limited.login(device=PHONE)
    allowed = BruteForceSettings().per_known_device.requests
    outcomes = [await limited.login(WRONG, device=PHONE) for _ in range(allowed + 1)]
    assert outcomes == ["CREDENTIALS_INVALID"] * allowed + ["TOO_MANY_ATTEMPTS"]
    assert await failures(database) == 0
    assert await failures_of_devices(database) == allowed
    assert await limited.login(ip=OTHER_IP) == "OK"


async def test_device_is_unknown_before_its_first_login(
    limited: Service, database: Database
) -> None:
    outcomes = [await limited.login(WRONG, device=PHONE) for _ in range(6)]
    assert outcomes == ["CREDENTIALS_INVALID"] * 5 + ["TOO_MANY_ATTEMPTS"]
    assert await value(database, "SELECT count(*) FROM devices") == 0


async def test_device_of_another_account_is_unknown(limited: Service) -> None:
    await limited.register("bob@example.test")
    assert await limited.login(email="bob@example.test", device=PHONE) == "OK"
    outcomes = [await limited.login(WRONG, device=PHONE) for _ in range(6)]
    assert outcomes[-1] == "TOO_MANY_ATTEMPTS"


async def test_device_is_stored_as_hash(free: Service, database: Database) -> None:
    await free.login(device=PHONE)
    stored = await value(database, "SELECT device_hash FROM devices")
    assert isinstance(stored, bytes)
    assert len(stored) == 32
    assert PHONE.encode() not in stored


# Consecutive failures (SP 800-63B-4, 3.2.2)


@pytest.mark.slow
async def test_failures_by_strangers_lock_out_only_strangers(
    free: Service, database: Database
) -> None:
    assert await free.login(device=PHONE) == "OK"
    before = free.hasher.compared
    outcomes = [await free.login(f"{WRONG}{n}", ip=f"192.0.2.{n}") for n in range(50)]
    assert set(outcomes) == {"CREDENTIALS_INVALID"}
    assert free.hasher.compared - before == 50

    assert await free.login() == "CREDENTIALS_INVALID"
    assert free.hasher.compared - before == 50
    assert await causes(database) == {
        "login:": 1,
        "login_failure:password": 50,
        "login_failure:locked": 1,
    }

    assert await free.login(device=PHONE) == "OK"
    assert await free.login() == "OK"


@pytest.mark.slow
async def test_concurrent_guesses_never_exceed_lock_threshold(
    free: Service, replicas: Replicas, database: Database
) -> None:
    other = await replicas.start(unlimited())
    async with database.connection() as conn:
        await conn.execute("UPDATE users SET failed_logins = 45")
    outcomes = await asyncio.gather(
        *((free, other)[n % 2].login(f"{WRONG}{n}") for n in range(200))
    )
    assert set(outcomes) == {"CREDENTIALS_INVALID"}
    assert free.hasher.compared + other.hasher.compared == 5
    assert await failures(database) == 50
    assert await causes(database) == {"login_failure:password": 5, "login_failure:locked": 195}


@pytest.mark.slow
async def test_account_locks_after_hundred_failures_from_any_source(
    free: Service, replicas: Replicas, database: Database
) -> None:
    other = await replicas.start(unlimited())
    devices = ["phone", "tablet", "laptop", "desk"]
    for device in devices:
        assert await free.login(device=device) == "OK"
    before = free.hasher.compared
    guesses = [(turn, device) for turn in range(60) for device in (*devices, "", f"new {turn}")]
    outcomes = await asyncio.gather(
        *((free, other)[n % 2].login(f"{WRONG}{n}", device=d) for n, d in guesses)
    )
    assert set(outcomes) == {"CREDENTIALS_INVALID"}
    # Whoever counted as a known device when these had used up their half is refused.
    assert free.hasher.compared - before + other.hasher.compared == 100
    assert await failures(database) == await failures_of_devices(database) == 50
    assert await free.login() == "CREDENTIALS_INVALID"
    assert await free.login(device="phone") == "CREDENTIALS_INVALID"


@pytest.mark.slow
async def test_successful_login_resets_all_failure_counts(
    free: Service, database: Database
) -> None:
    for device in (PHONE, "laptop", ""):
        assert await free.login(device=PHONE) == "OK"
        assert await free.login(WRONG) == "CREDENTIALS_INVALID"
        assert await free.login(WRONG, device=PHONE) == "CREDENTIALS_INVALID"
        assert await failures(database) == await failures_of_devices(database) == 1
        assert await free.login(device=device) == "OK"
        assert await failures(database) == await failures_of_devices(database) == 0


@pytest.mark.parametrize(("most", "of_devices"), [(2, 1), (3, 1), (10, 5), (100, 50)])
async def test_known_devices_and_strangers_split_failure_allowance(
    replicas: Replicas, most: int, of_devices: int
) -> None:
    service = await replicas.start(unlimited(max_consecutive_failures=most))
    await service.register()
    assert await service.login(device=PHONE) == "OK"
    before = service.hasher.compared
    for _ in range(most):
        assert await service.login(WRONG) == "CREDENTIALS_INVALID"
    assert service.hasher.compared - before == most - of_devices
    for _ in range(of_devices):
        assert await service.login(WRONG, device=PHONE) == "CREDENTIALS_INVALID"
    assert service.hasher.compared - before == most
    assert await service.login(device=PHONE) == "CREDENTIALS_INVALID"


async def test_successful_login_restarts_failure_count(replicas: Replicas) -> None:
    service = await replicas.start(unlimited(max_consecutive_failures=6))
    await service.register()
    for _ in range(3):
        assert await service.login(WRONG) == "CREDENTIALS_INVALID"
        assert await service.login(WRONG) == "CREDENTIALS_INVALID"
        assert await service.login() == "OK"


async def test_enabling_account_unlocks_it(free: Service, database: Database) -> None:
    async with database.connection() as conn:
        await conn.execute("UPDATE users SET failed_logins = 50, failed_device_logins = 50")
    assert await free.login() == "CREDENTIALS_INVALID"
    await free.accounts.enable(CLI, EMAIL)
    assert await free.login(WRONG) == "CREDENTIALS_INVALID"
    assert await failures(database) == 1
    assert await failures_of_devices(database) == 0
    assert await free.login() == "OK"


async def test_known_device_becomes_stranger_after_too_many_failures(
    replicas: Replicas, database: Database
) -> None:
    service = await replicas.start(unlimited(max_consecutive_failures=6))
    await service.register()
    for device in (PHONE, "laptop"):
        assert await service.login(device=device) == "OK"
    for device in (PHONE, "laptop", PHONE, "laptop"):
        assert await service.login(WRONG, device=device) == "CREDENTIALS_INVALID"
    assert await failures_of_devices(database) == 3
    assert await failures(database) == 1
    assert await service.login(device=PHONE) == "OK"
    assert await failures_of_devices(database) == 0


@pytest.mark.slow
async def test_throttled_logins_record_one_event_a_minute(
    limited: Service, database: Database, clock: FakeClock
) -> None:
    async def flood() -> Counter[str]:
        return Counter([await limited.login(WRONG) for _ in range(30)])

    assert (await flood())["TOO_MANY_ATTEMPTS"] == 25
    assert (await causes(database))["login_throttled:"] == 1
    clock.advance(59)
    await flood()
    assert (await causes(database))["login_throttled:"] == 1
    clock.advance(1)
    await flood()
    assert (await causes(database))["login_throttled:"] == 2


async def test_failed_attempt_is_recorded_for_its_account(
    limited: Service, database: Database
) -> None:
    await limited.login(WRONG)
    await limited.login(email="nobody@example.test")
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT user_id FROM audit_events WHERE type LIKE '%login_failure' ORDER BY event_id"
        )
        user_id = await connection.fetchval("SELECT user_id FROM users")
    assert [row["user_id"] for row in rows] == [user_id, None]


class _Interrupted(BruteForce):
    """Loses the connection to another database right after it charged a login."""

    lost: Database

    async def charge_guess(
        self, account: str, client: ClientContext, known_device: bytes | None
    ) -> ChargeReceipt:
        receipt = await super().charge_guess(account, client, known_device)
        await self.lost.close()
        return receipt


async def test_attempt_that_could_not_be_claimed_is_refunded(
    database: Database, database_dsn: str, clock: FakeClock
) -> None:
    one = PolicySettings.model_validate({"requests": 1, "window": "1h"})
    brute_force = _Interrupted(database, BruteForceSettings(per_account_and_ip=one), KEYRING)
    for _ in range(2):
        async with opened(database_dsn) as brute_force.lost:
            attempts = Attempts(brute_force.lost, brute_force, clock)
            with pytest.raises(StoreUnavailable):
                async with attempts.evaluate(CALL, EMAIL.lower(), ClientContext(IP)):
                    pytest.fail("it was not claimed")


async def test_cause_is_that_of_the_account_first(
    free: Service, database: Database, clock: FakeClock
) -> None:
    attempts = Attempts(database, BruteForce(database, unlimited(), KEYRING), clock)

    async def cause(account: str = EMAIL.lower(), *, guessable: bool = True) -> Cause:
        client = ClientContext(IP)
        async with attempts.evaluate(CALL, account, client, guessable=guessable) as attempt:
            return attempt.cause(Cause.PASSWORD)

    assert await cause() is Cause.PASSWORD
    assert await cause("nobody@example.test") is Cause.UNKNOWN
    async with database.connection() as connection:
        await connection.execute("UPDATE users SET failed_logins = 50")
    assert await cause() is Cause.LOCKED
    assert await cause(guessable=False) is Cause.PASSWORD
    async with database.connection() as connection:
        await connection.execute("UPDATE users SET failed_logins = 0, status = 'disabled'")
    assert await cause() is Cause.DISABLED


async def test_attempt_interrupted_by_outage_is_not_recorded(
    free: Service, database: Database, clock: FakeClock
) -> None:
    attempts = Attempts(database, BruteForce(database, unlimited(), KEYRING), clock)
    with pytest.raises(StoreUnavailable):
        async with attempts.evaluate(CALL, EMAIL.lower(), ClientContext(IP)):
            raise StoreUnavailable("The database did not answer.")
    assert await causes(database) == {}
    assert await failures(database) == 0


async def test_known_device_is_stranger_once_its_smaller_half_is_used_up(
    replicas: Replicas,
) -> None:
    service = await replicas.start(unlimited(max_consecutive_failures=3))
    await service.register()
    assert await service.login(device=PHONE) == "OK"
    assert await service.login(WRONG, device=PHONE) == "CREDENTIALS_INVALID"
    assert await service.login(device=PHONE) == "OK"


async def test_caller_that_sends_no_ip_is_warned_of_once(limited: Service) -> None:
    callers = (CALL, CALL, replace(CALL, caller="spiffe://authsvc.dev/other"))
    with capture_logs() as logs:
        await limited.log_in(CALL, EMAIL, PASSWORD, ClientContext(IP))
        assert limited.attempts.callers_without_ip == set()
        for call in callers:
            await limited.log_in(call, EMAIL, PASSWORD, ClientContext())
    assert limited.attempts.callers_without_ip == {call.caller for call in callers}
    warned = [line["caller"] for line in logs if line["event"] == "client_ip_missing"]
    assert warned == [CALL.caller, "spiffe://authsvc.dev/other"]
