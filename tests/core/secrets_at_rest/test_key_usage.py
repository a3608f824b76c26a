"""The report says what each key and pepper protects, and a missing one is noticed at the start."""

from typing import Literal

import pytest
from structlog.testing import capture_logs

from authsvc.core.factors.recovery_codes import RecoveryCodes
from authsvc.core.lib.sealing import Keyring
from authsvc.core.secrets_at_rest.key_usage import KeyReport, KeyUsage
from authsvc.core.secrets_at_rest.resealing import Resealing
from authsvc.errors import ServerError
from authsvc.models.calls import Call
from authsvc.models.ids import UserId
from authsvc.models.sealing import MESSAGES, SEALED_COLUMNS, SEEDS, SIGNING_KEYS
from authsvc.store.postgres.database import Database
from tests.core.secrets_at_rest.conftest import Sealed
from tests.support.accounts import key
from tests.support.clock import FakeClock
from tests.support.stored import add_user

OLD = Keyring([key("k1")])
NEW = Keyring([key("k2"), key("k1"), key("k0")])


def usage(
    database: Database,
    keyring: Keyring = NEW,
    peppers: tuple[str, ...] = ("p2", "p1", "p0"),
    missing_keys: Literal["refuse", "warn"] = "refuse",
) -> KeyUsage:
    return KeyUsage(
        database=database, keyring=keyring, pepper_ids=peppers, missing_keys=missing_keys
    )


def counts(report: KeyReport, column: object) -> dict[str, tuple[str, int, float]]:
    return {
        each.key_id: (each.state.value, each.count, each.percent)
        for each in (*report.keys, *report.peppers)
        if each.column == str(column)
    }


async def add_passwords(database: Database, *peppers: str | None) -> None:
    async with database.connection() as connection:
        for number, pepper in enumerate(peppers):
            user_id = await add_user(connection, f"user{number}")
            await connection.execute(
                "UPDATE users SET password_hash = 'x', pepper_id = $1 WHERE user_id = $2",
                pepper,
                user_id,
            )


async def test_report_counts_values_by_key(sealed: Sealed, clock: FakeClock) -> None:
    await sealed.add(OLD, 3)
    await sealed.add(NEW, 1)
    await sealed.add(Keyring([key("lost")]), 1, to=MESSAGES)
    report = await usage(sealed.database).report()
    for column in set(SEALED_COLUMNS) - {MESSAGES}:
        assert counts(report, column) == {"k1": ("older", 3, 75.0), "k2": ("newest", 1, 25.0)}
    assert counts(report, MESSAGES)["lost"] == ("missing", 1, 20.0)
    assert report.removable_keys == ["k0"]
    await Resealing(sealed.database, NEW, clock).run(
        Call("", "cli"), batch_size=100, progress=lambda _: None
    )
    assert (await usage(sealed.database).report()).removable_keys == ["k1", "k0"]


async def test_key_of_recovery_codes_is_not_removable(sealed: Sealed, clock: FakeClock) -> None:
    user_id = UserId(sealed.user_id)
    async with sealed.database.transaction() as connection:
        await RecoveryCodes(OLD, clock).generate(connection, user_id)
    report = await usage(sealed.database).report()
    assert counts(report, "recovery_codes.code_hash") == {"k1": ("older", 10, 100.0)}
    assert report.removable_keys == ["k0"]
    async with sealed.database.transaction() as connection:
        await connection.execute("UPDATE recovery_codes SET key_id = NULL")
    report = await usage(sealed.database).report()
    assert counts(report, "recovery_codes.code_hash") == {"": ("none", 10, 100.0)}
    assert report.removable_keys == ()


async def test_report_counts_passwords_by_pepper(database: Database) -> None:
    await add_passwords(database, "p1", "p1", "p2", None)
    report = await usage(database).report()
    assert counts(report, "users.password_hash") == {
        "": ("none", 1, 25.0),
        "p1": ("older", 2, 50.0),
        "p2": ("newest", 1, 25.0),
    }
    assert report.removable_peppers == ["p0"]


async def test_report_of_an_empty_database(database: Database) -> None:
    report = await usage(database).report()
    assert (report.keys, report.peppers) == ([], [])
    assert (report.removable_keys, report.removable_peppers) == (["k1", "k0"], ["p1", "p0"])


async def test_start_is_refused_without_a_key_in_use(sealed: Sealed) -> None:
    await sealed.add(OLD)
    await usage(sealed.database).check()
    for column in (SEEDS, SIGNING_KEYS):
        await sealed.add(Keyring([key("lost")]), to=column)
    with pytest.raises(ServerError) as caught:
        await usage(sealed.database).check()
    assert str(caught.value) == (
        'secrets.keyring has no key "lost", under which values of signing_keys.sealed_key and'
        " factors.sealed_seed are sealed. Add what is missing to the settings again, or accept the"
        ' loss with encryption.missing_keys = "warn"'
    )


async def test_start_is_refused_without_a_pepper_in_use(database: Database) -> None:
    await add_passwords(database, "p0", "p1", "p2", None)
    await usage(database).check()
    with pytest.raises(ServerError, match=r'secrets\.peppers has no pepper "p1", with which'):
        await usage(database, peppers=("p2", "p0")).check()


async def test_missing_key_is_only_logged_if_accepted(sealed: Sealed) -> None:
    await sealed.add(Keyring([key("lost")]), to=SEEDS)
    with capture_logs() as lines:
        await usage(sealed.database, missing_keys="warn").check()
    assert [line["event"] for line in lines] == ["key_missing"]


async def test_what_expires_soon_or_was_revoked_does_not_keep_the_service_from_starting(
    sealed: Sealed,
) -> None:
    lost = Keyring([key("lost")])
    for column in set(SEALED_COLUMNS) - {SEEDS}:
        await sealed.add(lost, to=column)
    async with sealed.database.connection() as connection:
        await connection.execute("UPDATE signing_keys SET state = 'revoked'")
    await usage(sealed.database).check()
