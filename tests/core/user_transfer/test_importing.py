"""An import stores valid rows once, reports invalid ones, and can be sent again."""

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from authsvc.core.passwords.foreign_schemes import ForeignHash
from authsvc.core.passwords.hashing import PasswordHash
from authsvc.core.user_transfer.import_fields import firebase_parameters_of
from authsvc.core.user_transfer.import_rows import RowFailure
from authsvc.core.user_transfer.importing import BATCH_ROWS, ImportOptions
from authsvc.errors import FieldInvalid, Overloaded, Reason, ServiceError
from tests.core.passwords.test_foreign_forms import STRONG, WEAK
from tests.core.passwords.test_foreign_hashes import FIREBASE, FIREBASE_HASH, FIREBASE_SALT
from tests.support.accounts import PASSWORD
from tests.support.importing import Importer

ADA = "Ada+tag@Example.Test"
ID = "018f0000-0000-7000-8000-000000000001"
OTHER_ID = "018f0000-0000-7000-8000-000000000002"
BCRYPT = STRONG["Django, bcrypt"].removeprefix("bcrypt$")


async def test_every_field_is_stored(importer: Importer) -> None:
    row = {
        "email": ADA,
        "display_name": "Ada Ł.",
        "email_verified": True,
        "roles": ["admin", "user", "admin"],
        "password_hash": BCRYPT,
        "disabled": True,
        "create_time": "2024-05-01T14:00:00.25+02:00",
        "user_id": ID,
    }
    assert await importer.run(row) == (1, 0, 0)
    (stored,) = await importer.fetch("SELECT * FROM users")
    assert {name: stored[name] for name in dict(stored)} == {
        "user_id": uuid.UUID(ID),
        "email": ADA,
        "email_canonical": "ada+tag@example.test",
        "display_name": "Ada Ł.",
        "password_hash": "foreign:" + BCRYPT,
        "pepper_id": None,
        "roles": ["admin", "user"],
        "status": "disabled",
        "origin": "import",
        "last_login_time": None,
        "failed_logins": 0,
        "failed_device_logins": 0,
        "create_time": datetime(2024, 5, 1, 12, 0, 0, 250_000, tzinfo=UTC),
        "update_time": importer.clock.now(),
        "email_verify_time": importer.clock.now(),
        "has_second_factor": False,
        "password_change_required": False,
        "token_revoke_time": None,
    }


@pytest.mark.slow
async def test_address_is_only_required_field(importer: Importer) -> None:
    assert await importer.run({"email": ADA}) == (1, 0, 0)
    (stored,) = await importer.fetch("SELECT * FROM users")
    assert stored["password_hash"] is None
    assert stored["email_verify_time"] is None
    assert (stored["roles"], stored["status"]) == (["user"], "active")
    assert stored["create_time"] == importer.clock.now()


async def test_existing_address_with_look_alike_is_imported(importer: Importer) -> None:
    # It is refused for new accounts only: this one exists elsewhere, and has to go on working.
    assert await importer.run({"email": "\ufb01rst@example.test"}) == (1, 0, 0)
    (stored,) = await importer.fetch("SELECT email_canonical FROM users")
    assert stored["email_canonical"] == "first@example.test"


async def test_csv_rows_are_imported(importer: Importer) -> None:
    data = (
        "email,roles,email_verified,disabled,display_name,password_hash\r\n"
        f'{ADA},admin;user,true,1,"Lovelace, ""Ada""",{BCRYPT}\r\n'
        "bob@example.test,,,,,\r\n"
    )
    assert await importer.run(data) == (2, 0, 0)
    ada, bob = await importer.fetch("SELECT * FROM users ORDER BY email")
    assert ada["display_name"] == 'Lovelace, "Ada"'
    assert (ada["roles"], ada["status"]) == (["admin", "user"], "disabled")
    assert (bob["roles"], bob["status"], bob["password_hash"]) == (["user"], "active", None)


WRONG: dict[str, tuple[str, Any]] = {
    "no address": ("email", {"display_name": "x"}),
    "empty address": ("email", {"email": ""}),
    "null address": ("email", {"email": None}),
    "number as address": ("email", {"email": 1}),
    "not an address": ("email", {"email": "ada"}),
    "address with NUL": ("email", {"email": "a\0@example.test"}),
    "address with half a character": ("email", {"email": "\ud800@example.test"}),
    "long address": ("email", {"email": "a" * 300 + "@example.test"}),
    "name with NUL": ("display_name", {"display_name": "a\0b"}),
    "name with half a character": ("display_name", {"display_name": "\udfff"}),
    "long name": ("display_name", {"display_name": "é" * 129}),
    "name as list": ("display_name", {"display_name": ["a"]}),
    "verified as text": ("email_verified", {"email_verified": "TRUE"}),
    "verified as number": ("email_verified", {"email_verified": 1}),
    "disabled as list": ("disabled", {"disabled": []}),
    "roles as text": ("roles", {"roles": "admin"}),
    "role of spaces": ("roles", {"roles": ["a b"]}),
    "role in capitals": ("roles", {"roles": ["Admin"]}),
    "role with line break": ("roles", {"roles": ["admin\n"]}),
    "role that is not defined": ("roles", {"roles": ["user", "editor"]}),
    "role as number": ("roles", {"roles": [1]}),
    "many roles": ("roles", {"roles": ["a"] * 33}),
    "no hash": ("password_hash", {"password_hash": PASSWORD}),
    "costly hash": ("password_hash", {"password_hash": BCRYPT.replace("$08$", "$31$")}),
    "hash with NUL": ("password_hash", {"password_hash": BCRYPT + "\0"}),
    "hash as number": ("password_hash", {"password_hash": 5}),
    "weak hash": ("password_hash", {"password_hash": WEAK["passlib, ldap_salted_sha1"]}),
    "pepper without hash": ("password_hash", {"pepper_id": "p1"}),
    "pepper of a foreign hash": ("password_hash", {"password_hash": BCRYPT, "pepper_id": "p1"}),
    "own hash without pepper": (
        "password_hash",
        {"password_hash": "v1" + STRONG["passlib, argon2"]},
    ),
    "salt without hash": ("password_hash", {"salt": FIREBASE_SALT}),
    "salt without parameters": ("salt", {"password_hash": FIREBASE_HASH, "salt": FIREBASE_SALT}),
    "parameters that are none": (
        "firebase",
        {"password_hash": FIREBASE_HASH, "salt": FIREBASE_SALT, "firebase": {"rounds": 8}},
    ),
    "time without zone": ("create_time", {"create_time": "2023-04-02T11:00:00"}),
    "time as date": ("create_time", {"create_time": "2023-04-02"}),
    "time that is none": ("create_time", {"create_time": "2024-02-30T12:00:00Z"}),
    "time in the future": ("create_time", {"create_time": "9999-12-31T23:59:59-23:59"}),
    "time before all": ("create_time", {"create_time": "0001-01-01T00:00:00+23:59"}),
    "time in other digits": ("create_time", {"create_time": "٢٠٢٤-05-01T12:00:00Z"}),
    "time as number": ("create_time", {"create_time": 1714564800}),
    "id that is none": ("user_id", {"user_id": "1"}),
    "id in capitals": ("user_id", {"user_id": ID.upper()}),
    "id in braces": ("user_id", {"user_id": "{" + ID + "}"}),
    "unknown field": ("", {"shoe": 44}),
    "address as a field": ("", {"hunter2@example.test": True}),
    "hash as a field": ("", {"$2b$hunter2": True}),
}


@pytest.mark.parametrize(("field", "values"), WRONG.values(), ids=WRONG)
async def test_invalid_row_reports_field_but_not_value(
    importer: Importer, field: str, values: dict[str, Any]
) -> None:
    row = json.dumps({"email": "x@example.test"} | values)
    if "email" not in values and field == "email":
        row = json.dumps(values)
    with capture_logs() as logs:
        assert await importer.run({"email": ADA}, row, {"email": "bob@example.test"}) == (2, 0, 1)
    (failure,) = importer.failures
    assert (failure.line, failure.field) == (2, field)
    said = failure.description + str(logs)
    assert failure.description
    for value in values.values():
        if isinstance(value, str) and len(value) > 3:
            assert value not in said
    assert "hunter2" not in said


async def test_names_of_unknown_fields_and_roles_are_shown(importer: Importer) -> None:
    row = {"email": ADA, "phone": 1, "Ärger\n": 2, "ada@x.test": 3, "y" * 50: 4}
    await importer.run(row, {"email": ADA, "roles": ["user", "editor", "editor"]})
    assert importer.failures == [
        RowFailure(
            1,
            "",
            'has unknown fields: "phone", "\\u00c4rger\\n", one that looks like a value, "'
            + "y" * 40
            + '\\u2026"',
        ),
        RowFailure(
            2,
            "roles",
            'has roles that are not defined: "editor"; '
            'those defined are: "a", "admin", "b", "user"',
        ),
    ]


async def test_weak_hashes_of_accounts_that_exist_are_not_wrapped(importer: Importer) -> None:
    text = WEAK["passlib, ldap_salted_sha1"]
    rows = [{"email": f"u{n}@x.test", "password_hash": text} for n in range(3)]
    assert await importer.run(*rows, dry_run=True, accept_weak_hashes=True) == (3, 0, 0)
    assert await importer.run(rows[0], accept_weak_hashes=True) == (1, 0, 0)
    wrapped: list[ForeignHash] = []
    wrap = importer.hasher.wrap

    async def observed(weak: ForeignHash) -> PasswordHash:
        wrapped.append(weak)
        return await wrap(weak)

    importer.hasher.wrap = observed  # type: ignore[method-assign]
    assert await importer.run(*rows, accept_weak_hashes=True) == (2, 1, 0)
    assert len(wrapped) == 2
    stored = await importer.fetch("SELECT password_hash FROM users")
    assert all(row["password_hash"].startswith("wrapped:") for row in stored)
    assert text[-20:] not in str([dict(row) for row in stored])


async def test_import_waits_while_logins_use_the_whole_pool(importer: Importer) -> None:
    refusals = iter([Overloaded(retry_after=0), Overloaded(retry_after=0)])
    wrap = importer.hasher.wrap

    async def busy(weak: ForeignHash) -> PasswordHash:
        for refusal in refusals:
            raise refusal
        return await wrap(weak)

    importer.hasher.wrap = busy  # type: ignore[method-assign]
    row = {"email": ADA, "password_hash": WEAK["passlib, ldap_salted_sha1"]}
    assert await importer.run(row, accept_weak_hashes=True) == (1, 0, 0)


async def test_unusable_password_of_django_is_none(importer: Importer) -> None:
    assert await importer.run({"email": ADA, "password_hash": "!tjZuNtj1ig9MIQza1K"}) == (1, 0, 0)
    (stored,) = await importer.fetch("SELECT password_hash FROM users")
    assert stored["password_hash"] is None


@pytest.mark.parametrize("address", ["a(b@example.test", "a@b_c.test", "a@b@c.test", "Ada"])
async def test_invalid_address_is_not_shown(importer: Importer, address: str) -> None:
    await importer.run({"email": address})
    assert importer.failures == [RowFailure(1, "email", "is not an e-mail address")]


@pytest.mark.slow
async def test_row_may_contain_firebase_parameters(importer: Importer) -> None:
    row = {
        "email": ADA,
        "password_hash": FIREBASE_HASH.replace("/", "_").replace("+", "-"),
        "salt": FIREBASE_SALT,
        "firebase": {
            "base64_signer_key": "jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKb"
            "m0QsEmYUSDzZvpjeJ9WmXA==",
            "base64_salt_separator": "Bw==",
            "rounds": 8,
            "mem_cost": 14,
        },
    }
    assert await importer.run(row) == (1, 0, 0)
    (stored,) = await importer.fetch("SELECT password_hash FROM users")
    assert stored["password_hash"].startswith("foreign:$firebase-scrypt$ln=14,r=8$")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "rounds: 8",
        "{" * 5_000,
        '{"rounds": 1e9}',
        "base64_signer_key: ?\nrounds: x",
    ],
)
def test_malformed_firebase_parameters_are_rejected(text: str) -> None:
    with pytest.raises(FieldInvalid):
        firebase_parameters_of(text)


def test_firebase_parameters_of_another_algorithm_are_rejected() -> None:
    values = "base64_signer_key: AAAA\nbase64_salt_separator: Bw==\nrounds: 8\nmem_cost: 14"
    text = "algorithm: {}\n" + values
    assert firebase_parameters_of(text.format("SCRYPT")).rounds == FIREBASE.rounds
    with pytest.raises(FieldInvalid):
        firebase_parameters_of(text.format("BCRYPT"))


async def test_existing_account_is_unchanged(importer: Importer) -> None:
    await importer.run({"email": ADA, "password_hash": BCRYPT})
    before = await importer.fetch("SELECT * FROM users")
    importer.clock.advance(timedelta(days=1))
    again = {"email": ADA.upper(), "roles": ["admin"], "disabled": True, "user_id": ID}
    assert await importer.run(again) == (0, 1, 0)
    assert await importer.fetch("SELECT * FROM users") == before


@pytest.mark.slow
async def test_first_row_of_duplicate_addresses_wins(importer: Importer) -> None:
    rows = [{"email": ADA, "display_name": str(n)} for n in range(3)]
    assert await importer.run(*rows) == (1, 2, 0)
    (stored,) = await importer.fetch("SELECT display_name FROM users")
    assert stored["display_name"] == "0"


@pytest.mark.slow
async def test_id_of_another_account_is_a_failure(importer: Importer) -> None:
    await importer.run({"email": ADA, "user_id": ID})
    rows = [
        {"email": "bob@example.test", "user_id": ID},
        {"email": "cid@example.test", "user_id": OTHER_ID},
        {"email": "dan@example.test", "user_id": OTHER_ID},
        {"email": ADA, "user_id": OTHER_ID},
    ]
    assert await importer.run(*rows, dry_run=True) == (2, 1, 1)
    assert await importer.run(*rows) == (1, 1, 2)
    assert importer.failures == [
        RowFailure(line, "user_id", "is the id of another account") for line in (1, 3)
    ]
    assert await importer.run(*rows) == (0, 2, 2)


@pytest.mark.slow
async def test_dry_run_counts_but_stores_nothing(importer: Importer) -> None:
    await importer.run({"email": ADA})
    rows = [{"email": ADA}, {"email": "bob@example.test"}, {"email": "?"}]
    assert await importer.run(*rows, dry_run=True) == (1, 1, 1)
    for table in ("users", "audit_events"):
        assert len(await importer.fetch(f"SELECT * FROM {table}")) == 1


@pytest.mark.slow
async def test_interrupted_import_resumes_when_sent_again(
    importer: Importer,
) -> None:
    rows = [{"email": f"u{n}@example.test"} for n in range(3 * BATCH_ROWS)]
    importer.settings = importer.settings.model_copy(update={"max_rows": 2 * BATCH_ROWS + 10})
    with pytest.raises(ServiceError) as ended:
        await importer.run(*rows)
    assert ended.value.reason is Reason.LIMIT_REACHED
    importer.settings = importer.settings.model_copy(update={"max_rows": 10_000})
    assert await importer.run(*rows) == (BATCH_ROWS, 2 * BATCH_ROWS, 0)


@pytest.mark.slow
async def test_each_batch_is_recorded_in_its_transaction(importer: Importer) -> None:
    rows = [{"email": f"u{n}@example.test"} for n in range(BATCH_ROWS + 1)]
    await importer.run(*rows)
    events = await importer.fetch(
        "SELECT events.detail, count(*) AS users FROM audit_events events"
        " JOIN users ON users.xmin = events.xmin WHERE type = 'users.import'"
        " GROUP BY events.event_id, events.detail ORDER BY events.event_id"
    )
    assert [(json.loads(event["detail"])["imported"], event["users"]) for event in events] == [
        (BATCH_ROWS, BATCH_ROWS),
        (1, 1),
    ]


@pytest.mark.slow
async def test_concurrent_imports_of_one_file_store_it_once(importer: Importer) -> None:
    rows = [{"email": f"u{n}@example.test"} for n in range(2 * BATCH_ROWS)]
    others = [Importer(importer.database, importer.hasher, importer.clock) for _ in range(7)]
    # Half of them in reverse order, so that each would wait for what the other holds.
    ends = await asyncio.gather(
        *(one.run(*rows[:: 1 if n % 2 else -1]) for n, one in enumerate([importer, *others]))
    )
    assert [sum(counts) for counts in zip(*ends, strict=True)] == [
        2 * BATCH_ROWS,
        7 * 2 * BATCH_ROWS,
        0,
    ]
    assert len(await importer.fetch("SELECT 1 FROM users")) == 2 * BATCH_ROWS


async def test_import_logs_no_personal_data(importer: Importer) -> None:
    with capture_logs() as logs:
        await importer.run({"email": ADA, "display_name": "Lovelace", "password_hash": BCRYPT})
    for secret in (ADA, "Lovelace", BCRYPT):
        assert secret not in str(logs)


@pytest.mark.parametrize("limit", ["max_file_bytes", "max_rows"])
async def test_file_size_and_rows_are_limited(importer: Importer, limit: str) -> None:
    importer.settings = importer.settings.model_copy(update={limit: 5_000})
    with pytest.raises(ServiceError) as refused:
        await importer.read(b"{}\n" * 6_000, ImportOptions())
    assert refused.value.reason is Reason.LIMIT_REACHED


async def test_addresses_of_private_networks_are_imported_by_a_setting_only(
    importer: Importer,
) -> None:
    emails = ("Ada@intranet", "ada@Corp.local", "ada@home.arpa")
    rows = [{"email": email} for email in emails]
    assert await importer.run(*rows) == (0, 0, 3)
    reasons = {failure.description for failure in importer.failures}
    assert reasons == {"has the domain of a private network; set emails.directory_domains"}
    importer.directory_domains = True
    assert await importer.run(*rows) == (3, 0, 0)
    # They are the same accounts in any spelling.
    assert await importer.run(*({"email": email.swapcase()} for email in emails)) == (0, 3, 0)
    stored = await importer.fetch("SELECT email, email_canonical FROM users ORDER BY user_id")
    assert {(row["email"], row["email_canonical"]) for row in stored} == {
        (email, email.lower()) for email in emails
    }


async def test_local_parts_with_extra_dots_are_imported_as_accounts_of_their_own(
    importer: Importer,
) -> None:
    locals_ = ("ada.l", "ada..l", "ada.l.", "adal")
    assert await importer.run(*({"email": f"{local}@example.com"} for local in locals_)) == (
        4,
        0,
        0,
    )
    assert await importer.run({"email": "ADA..L@example.com"}) == (0, 1, 0)
    assert await importer.run({"email": ".ada@example.com"}) == (0, 0, 1)
