"""The login by password: what it opens, what it counts, and what may happen in its midst."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from authsvc.config import BruteForceSettings, PasswordSettings, PolicySettings
from authsvc.errors import FieldInvalid, Overloaded, Reason, TooManyAttempts
from authsvc.models import ClientContext
from authsvc.store.database import Database
from tests.accounts import (
    CALL,
    CLI,
    EMAIL,
    IP,
    OTHER_IP,
    PASSWORD,
    WRONG,
    Service,
    cheap_passwords,
    key,
    unlimited,
)
from tests.clock import FakeClock
from tests.databases import settings_for

NEW_PASSWORD = "Bernoulli-Numbers-1843"
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
    ) -> Service:
        service = await Service(
            database or self._database,
            self._clock,
            limits or BruteForceSettings(),
            passwords or cheap_passwords(),
            tuple(key(pepper) for pepper in peppers),
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
async def service(replicas: Replicas) -> Service:
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


async def _value(database: Database, query: str) -> object:
    async with database.connection() as conn:
        return await conn.fetchval(query)


async def _failures(database: Database) -> object:
    return await _value(database, "SELECT failed_logins FROM users")


async def _causes(database: Database) -> Counter[str]:
    """Return how often each type of event, with its cause, was recorded."""
    async with database.connection() as conn:
        rows = await conn.fetch("SELECT type, detail FROM audit_events")
    return Counter(
        row["type"].removeprefix("user.") + ":" + json.loads(row["detail"]).get("cause", "")
        for row in rows
        if row["type"].startswith("user.login")
    )


async def _set_password(service: Service, password: str) -> None:
    replacement = await service.hasher.hash(password)
    async with service.database.connection() as conn:
        await conn.execute("UPDATE users SET password_hash = $1", replacement.phc)


async def test_each_login_opens_a_session_of_its_own(free: Service) -> None:
    client = ClientContext(IP, "Test", PHONE)
    first = await free.accounts.login(CALL, EMAIL, PASSWORD, client)
    second = await free.accounts.login(CALL, EMAIL.upper(), PASSWORD, client)
    for name in ("session_id", "session_token", "csrf_token", "refresh_token", "access_token"):
        assert getattr(first, name) != getattr(second, name)
    session = await free.sessions.get(first.session_id)
    assert session.user_id == first.user_id
    assert session.client == client
    assert session.authentication_methods == ("pwd",)


async def test_the_shipped_cost_of_a_hash_is_paid(replicas: Replicas, database: Database) -> None:
    service = await replicas.start(unlimited(), PasswordSettings())
    await service.register()
    stored = await _value(database, "SELECT password_hash FROM users")
    assert str(stored).startswith("v1$argon2id$v=19$m=19456,t=2,p=1$")
    assert await service.login(WRONG) == "CREDENTIALS_INVALID"
    assert await service.login() == "OK"


@pytest.mark.parametrize(
    ("email", "password", "reason"),
    [
        ("no address", PASSWORD, "EMAIL_INVALID"),
        (EMAIL, "with\0NUL", "FIELD_INVALID"),
        (EMAIL, "ﷺ" * 60, "FIELD_INVALID"),
    ],
)
async def test_what_cant_be_a_credential_costs_nothing(
    replicas: Replicas, database: Database, email: str, password: str, reason: str
) -> None:
    service = await replicas.start(unlimited(per_ip=ONE))
    await service.register()
    for _ in range(3):
        assert await service.login(password, email=email) == reason
    assert await service.login() == "OK"
    assert await _causes(database) == {"login:": 1}
    await database.close()
    assert await service.login() == "STORE_UNAVAILABLE"
    assert await service.login(password, email=email) == reason


# Limits


async def test_parallel_guesses_dont_overtake_the_limit(
    service: Service, replicas: Replicas, database: Database
) -> None:
    other = await replicas.start()
    outcomes = await asyncio.gather(
        *((service, other)[n % 2].login(f"{WRONG}{n}") for n in range(100))
    )
    allowed = BruteForceSettings().per_account_and_ip.requests
    assert Counter(outcomes) == {
        "CREDENTIALS_INVALID": allowed,
        "TOO_MANY_ATTEMPTS": 100 - allowed,
    }
    assert service.hasher.compared + other.hasher.compared == allowed
    assert await _failures(database) == allowed


async def test_replicas_share_the_limits(service: Service, replicas: Replicas) -> None:
    other = await replicas.start()
    for _ in range(4):
        assert await service.login(WRONG) == "CREDENTIALS_INVALID"
    assert await other.login(WRONG) == "CREDENTIALS_INVALID"
    assert await other.login() == "TOO_MANY_ATTEMPTS"
    assert await service.login() == "TOO_MANY_ATTEMPTS"


async def test_the_right_password_waits_too_once_the_limit_is_reached(service: Service) -> None:
    for _ in range(5):
        await service.login(WRONG)
    with pytest.raises(TooManyAttempts) as refused:
        await service.accounts.login(CALL, EMAIL, PASSWORD, ClientContext(IP))
    assert refused.value.retry_after > 0
    assert service.hasher.compared == 5


async def test_only_failures_count(service: Service) -> None:
    for _ in range(4):
        assert await service.login(WRONG) == "CREDENTIALS_INVALID"
    for _ in range(12):
        assert await service.login() == "OK"
    assert await service.login(WRONG) == "CREDENTIALS_INVALID"
    assert await service.login() == "TOO_MANY_ATTEMPTS"


async def test_strangers_dont_lock_out_a_known_device(service: Service) -> None:
    assert await service.login(device=PHONE) == "OK"
    strangers = [
        await service.login(WRONG, ip=f"198.51.100.{host}", device="another") for host in range(25)
    ]
    assert Counter(strangers) == {"CREDENTIALS_INVALID": 20, "TOO_MANY_ATTEMPTS": 5}
    assert await service.login() == "TOO_MANY_ATTEMPTS"
    assert await service.login(device="new") == "TOO_MANY_ATTEMPTS"
    assert await service.login(device=PHONE) == "OK"


async def test_a_known_device_has_limits_of_its_own(service: Service, database: Database) -> None:
    await service.login(device=PHONE)
    allowed = BruteForceSettings().per_known_device.requests
    outcomes = [await service.login(WRONG, device=PHONE) for _ in range(allowed + 1)]
    assert outcomes == ["CREDENTIALS_INVALID"] * allowed + ["TOO_MANY_ATTEMPTS"]
    assert await _failures(database) == 0
    assert await _value(database, "SELECT failed_logins FROM devices") == allowed
    assert await service.login(ip=OTHER_IP) == "OK"


async def test_a_device_is_not_known_before_it_logged_in(
    service: Service, database: Database
) -> None:
    outcomes = [await service.login(WRONG, device=PHONE) for _ in range(6)]
    assert outcomes == ["CREDENTIALS_INVALID"] * 5 + ["TOO_MANY_ATTEMPTS"]
    assert await _value(database, "SELECT count(*) FROM devices") == 0


async def test_another_accounts_device_is_not_known(service: Service) -> None:
    await service.register("bob@example.test")
    assert await service.login(email="bob@example.test", device=PHONE) == "OK"
    outcomes = [await service.login(WRONG, device=PHONE) for _ in range(6)]
    assert outcomes[-1] == "TOO_MANY_ATTEMPTS"


async def test_a_device_is_stored_as_a_hash(free: Service, database: Database) -> None:
    await free.login(device=PHONE)
    stored = await _value(database, "SELECT device_hash FROM devices")
    assert isinstance(stored, bytes)
    assert len(stored) == 32
    assert PHONE.encode() not in stored


# Consecutive failures (SP 800-63B-4, 3.2.2)


async def test_a_hundred_failures_in_a_row_lock_the_account(
    free: Service, database: Database
) -> None:
    assert await free.login(device=PHONE) == "OK"
    before = free.hasher.compared
    outcomes = [await free.login(f"{WRONG}{n}", ip=f"192.0.2.{n}") for n in range(100)]
    assert set(outcomes) == {"CREDENTIALS_INVALID"}
    assert free.hasher.compared - before == 100

    assert await free.login() == "CREDENTIALS_INVALID"
    assert free.hasher.compared - before == 100
    assert await _causes(database) == {
        "login:": 1,
        "login_failure:password": 100,
        "login_failure:locked": 1,
    }

    assert await free.login(device=PHONE) == "OK"
    assert await free.login() == "OK"


async def test_parallel_guesses_dont_overtake_the_lock(
    free: Service, replicas: Replicas, database: Database
) -> None:
    other = await replicas.start(unlimited())
    async with database.connection() as conn:
        await conn.execute("UPDATE users SET failed_logins = 95")
    outcomes = await asyncio.gather(
        *((free, other)[n % 2].login(f"{WRONG}{n}") for n in range(200))
    )
    assert set(outcomes) == {"CREDENTIALS_INVALID"}
    assert free.hasher.compared + other.hasher.compared == 5
    assert await _failures(database) == 100
    assert await _causes(database) == {"login_failure:password": 5, "login_failure:locked": 195}


async def test_a_success_starts_the_count_again(replicas: Replicas) -> None:
    service = await replicas.start(unlimited(max_consecutive_failures=3))
    await service.register()
    for _ in range(3):
        assert await service.login(WRONG) == "CREDENTIALS_INVALID"
        assert await service.login(WRONG) == "CREDENTIALS_INVALID"
        assert await service.login() == "OK"


async def test_enabling_unlocks(free: Service, database: Database) -> None:
    async with database.connection() as conn:
        await conn.execute("UPDATE users SET failed_logins = 100")
    assert await free.login() == "CREDENTIALS_INVALID"
    await free.accounts.enable(CLI, EMAIL)
    assert await free.login() == "OK"


async def test_a_device_that_failed_too_often_is_a_stranger_again(
    replicas: Replicas, database: Database
) -> None:
    service = await replicas.start(unlimited(max_consecutive_failures=3))
    await service.register()
    await service.login(device=PHONE)
    for _ in range(4):
        await service.login(WRONG, device=PHONE)
    assert await _value(database, "SELECT failed_logins FROM devices") == 3
    assert await _failures(database) == 1
    assert await service.login(device=PHONE) == "OK"
    assert await _value(database, "SELECT failed_logins FROM devices") == 0


async def test_parallel_guesses_dont_overtake_a_devices_lock(
    replicas: Replicas, database: Database
) -> None:
    service = await replicas.start(unlimited(max_consecutive_failures=3))
    await service.register()
    await service.login(device=PHONE)
    before = service.hasher.compared
    await asyncio.gather(*(service.login(f"{WRONG}{n}", device=PHONE) for n in range(60)))
    # Three as a known device; as a stranger three more.
    assert service.hasher.compared - before <= 6
    assert await _value(database, "SELECT failed_logins FROM devices") == 3


# What is not a wrong password


async def test_a_full_queue_costs_nothing(replicas: Replicas, database: Database) -> None:
    service = await replicas.start(unlimited(per_account=ONE, max_consecutive_failures=1))
    await service.register()

    async def full() -> None:
        raise Overloaded

    service.hasher.before = full
    for _ in range(3):
        assert await service.login(WRONG) == "OVERLOADED"
    service.hasher.before = database.ping
    assert await _failures(database) == 0
    assert await service.login() == "OK"


async def test_a_full_queue_doesnt_unlock(replicas: Replicas, database: Database) -> None:
    service = await replicas.start(unlimited(max_consecutive_failures=1))
    await service.register()
    await service.login(WRONG)

    async def full() -> None:
        raise Overloaded

    service.hasher.before = full
    assert await service.login() == "OVERLOADED"
    assert await _failures(database) == 1


async def test_a_full_queue_gives_a_known_device_its_claim_back(
    replicas: Replicas, database: Database
) -> None:
    service = await replicas.start(unlimited(per_known_device=ONE))
    await service.register()
    await service.login(device=PHONE)

    async def full() -> None:
        raise Overloaded

    service.hasher.before = full
    assert await service.login(device=PHONE) == "OVERLOADED"
    assert await _value(database, "SELECT failed_logins FROM devices") == 0
    service.hasher.before = database.ping
    assert await service.login(device=PHONE) == "OK"


@pytest_asyncio.fixture
async def impatient(database_dsn: str) -> AsyncIterator[Database]:
    opened = await Database.open(settings_for(database_dsn, command_timeout="300ms"))
    yield opened
    await opened.close()


async def test_a_database_that_fails_after_the_right_password_costs_nothing(
    replicas: Replicas, database: Database, impatient: Database
) -> None:
    service = await replicas.start(unlimited(per_account=ONE), database=impatient)
    await service.register()
    async with database.transaction() as conn:
        await conn.execute("LOCK TABLE sessions")
        assert await service.login() == "STORE_UNAVAILABLE"
        assert await service.login() == "STORE_UNAVAILABLE"
    assert await _failures(database) == 0
    assert await service.login() == "OK"


async def test_a_database_that_fails_after_a_wrong_password_forgives_nothing(
    replicas: Replicas, database: Database, impatient: Database
) -> None:
    service = await replicas.start(unlimited(per_account=ONE), database=impatient)
    await service.register()
    async with database.transaction() as conn:
        await conn.execute("LOCK TABLE audit_events")
        assert await service.login(WRONG) == "STORE_UNAVAILABLE"
    assert await _failures(database) == 1
    assert await service.login() == "TOO_MANY_ATTEMPTS"


async def test_who_hangs_up_gets_nothing_back(replicas: Replicas, database: Database) -> None:
    service = await replicas.start(unlimited(per_account=ONE))
    await service.register()
    reached = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.Event().wait()

    service.hasher.after_verify = hang
    attempt = asyncio.create_task(service.login(WRONG))
    await reached.wait()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    service.hasher.after_verify = database.ping
    assert await _failures(database) == 1
    assert await service.login() == "TOO_MANY_ATTEMPTS"


# What happens in the midst


async def test_no_connection_waits_for_a_comparison(database_dsn: str, replicas: Replicas) -> None:
    only = await Database.open(settings_for(database_dsn, pool_max=1, acquire_timeout="1s"))
    service = await replicas.start(peppers=("p1",), database=only)
    await service.register()
    newer = await replicas.start(peppers=("p2", "p1"), database=only)
    newer.hasher.before = only.ping
    assert await newer.login() == "OK"
    assert await newer.login(WRONG) == "CREDENTIALS_INVALID"
    await only.close()


async def test_a_password_changed_in_between_refuses_the_old_one(
    free: Service, database: Database
) -> None:
    async def change() -> None:
        free.hasher.after_verify = database.ping
        await _set_password(free, NEW_PASSWORD)

    free.hasher.after_verify = change
    assert await free.login() == "CREDENTIALS_INVALID"
    assert await _value(database, "SELECT count(*) FROM sessions") == 0
    assert await _causes(database) == {"login_failure:password": 1}
    assert await free.login(NEW_PASSWORD) == "OK"


async def test_an_account_disabled_in_between_refuses(free: Service, database: Database) -> None:
    async def disable() -> None:
        await free.accounts.disable(CLI, EMAIL)

    free.hasher.after_verify = disable
    assert await free.login() == "CREDENTIALS_INVALID"
    assert await _value(database, "SELECT count(*) FROM sessions") == 0
    assert await _causes(database) == {"login_failure:disabled": 1}


@pytest.mark.parametrize("change", ["cost", "pepper"])
async def test_a_login_hashes_anew_what_is_out_of_date(
    replicas: Replicas, database: Database, change: str
) -> None:
    old = await replicas.start(unlimited())
    await old.register()
    if change == "cost":
        new = await replicas.start(unlimited(), cheap_passwords(argon2_time_cost=3))
    else:
        new = await replicas.start(unlimited(), peppers=("p2", "p1"))

    query = "SELECT (password_hash, pepper_id)::text FROM users"
    before = await _value(database, query)
    assert await new.login(WRONG) == "CREDENTIALS_INVALID"
    assert await _value(database, query) == before
    assert await new.login() == "OK"
    after = str(await _value(database, query))
    assert after != before
    assert ("t=3" in after) if change == "cost" else after.endswith("p2)")
    assert await new.login() == "OK"
    assert await _value(database, query) == after


async def test_a_parallel_login_that_hashes_anew_refuses_nobody(
    replicas: Replicas, database: Database
) -> None:
    old = await replicas.start(unlimited())
    await old.register()
    new = await replicas.start(unlimited(), peppers=("p2", "p1"))

    async def log_in_beside() -> None:
        new.hasher.after_verify = database.ping
        assert await new.login() == "OK"

    new.hasher.after_verify = log_in_beside
    assert await new.login() == "OK"
    assert await _value(database, "SELECT pepper_id FROM users") == "p2"


async def test_hashing_anew_doesnt_undo_a_change_of_password(
    replicas: Replicas, database: Database
) -> None:
    old = await replicas.start(unlimited())
    await old.register()
    new = await replicas.start(unlimited(), cheap_passwords(argon2_time_cost=3))

    async def change_before_the_second_hash() -> None:
        async def change() -> None:
            new.hasher.before = database.ping
            await _set_password(old, NEW_PASSWORD)

        new.hasher.before = change

    new.hasher.before = change_before_the_second_hash
    assert await new.login() == "OK"
    assert await old.login(PASSWORD) == "CREDENTIALS_INVALID"
    assert await old.login(NEW_PASSWORD) == "OK"


async def test_hashing_anew_that_fails_fails_no_login(
    replicas: Replicas, database: Database
) -> None:
    old = await replicas.start(unlimited())
    await old.register()
    new = await replicas.start(unlimited(), peppers=("p2", "p1"))

    async def full_from_now_on() -> None:
        async def full() -> None:
            raise Overloaded

        new.hasher.before = full

    new.hasher.before = full_from_now_on
    assert await new.login() == "OK"
    assert await _value(database, "SELECT pepper_id FROM users") == "p1"


# The record


async def test_every_outcome_is_recorded(service: Service, database: Database) -> None:
    client = ClientContext(IP, "Test", PHONE)
    tokens = await service.accounts.login(CALL, EMAIL, PASSWORD, client)
    for _ in range(6):
        await service.login(WRONG)
    await service.login(email="nobody@example.test", ip=OTHER_IP)
    assert await _causes(database) == {
        "login:": 1,
        "login_failure:password": 5,
        "login_failure:unknown": 1,
        "login_throttled:": 1,
    }
    async with database.connection() as conn:
        rows = await conn.fetch("SELECT * FROM audit_events WHERE type LIKE 'user.login%'")
    for row in rows:
        assert (row["caller"], row["request_id"]) == (CALL.caller, CALL.request_id)
        assert row["user_agent"] == "Test"
        unknown = "unknown" in row["detail"]
        assert row["user_id"] == (None if unknown else tokens.user_id)
        assert str(row["ip"]) == (OTHER_IP if unknown else IP)
        expected = tokens.session_id if row["type"] == "user.login" else None
        assert row["session_id"] == expected


async def test_no_record_holds_a_secret_or_an_address(
    service: Service, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    client = ClientContext(IP, "Test", PHONE)
    tokens = await service.accounts.login(CALL, EMAIL, PASSWORD, client)
    for _ in range(6):
        await service.login(WRONG)
    await service.login(email="nobody@example.test")
    async with database.connection() as conn:
        rows: list[asyncpg.Record] = await conn.fetch("SELECT * FROM audit_events")
        stored = await conn.fetchval("SELECT password_hash FROM users")
    assert len(rows) >= 9
    written = json.dumps([dict(row) for row in rows], default=str) + "".join(capsys.readouterr())
    secrets = [EMAIL, EMAIL.lower(), "nobody@example.test", PASSWORD, WRONG, PHONE, stored]
    secrets += [tokens.access_token, tokens.refresh_token, tokens.session_token, tokens.csrf_token]
    for secret in secrets:
        assert secret not in written


async def test_an_invalid_field_names_the_field(service: Service) -> None:
    with pytest.raises(FieldInvalid) as refused:
        await service.accounts.login(CALL, "no address", PASSWORD, ClientContext())
    assert refused.value.reason is Reason.EMAIL_INVALID
    assert [violation.field for violation in refused.value.violations] == ["email"]
