"""Nobody's data is kept, unexported or after its deletion, without somebody having decided so."""

import asyncio
import base64
import hashlib
import subprocess
from collections.abc import Iterator, Mapping

import asyncpg
import pytest

from authsvc.config import Settings
from authsvc.dev.binaries import find_binaries
from authsvc.v1 import account_service_pb2 as pb
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1.common_pb2 import ClientContext, Tokens
from tests.rpc.account.test_own_data import TABLES
from tests.support.accounts import PASSWORD, WRONG, cheap_passwords, unlimited
from tests.support.codes import unlimited_codes
from tests.support.personal_data import keeping_constraints, personal_columns
from tests.support.probe import outcome
from tests.support.service import Service, StartService

# ExportData has these tables; test_own_data.py judges each of their columns.
EXPORTED = set(TABLES.values())
# Other columns that may hold data on a person, and why they are not exported.
EXCUSED: Mapping[tuple[str, str], str] = {
    ("ip_blocks", "network"): "of whoever was blocked, not known to be anybody's",
    (
        "rate_limits",
        "key",
    ): "the service's own keys are keyed hashes; product keys are the callers'",
    ("revocations", "session_id"): "an id only; removed after retention.revocations",
    ("revocations", "user_id"): "an id only; removed after retention.revocations",
    ("schema_version", "name"): "the name of a migration",
    ("signing_keys", "sealed_key"): "a key of the service",
}
# Data on users that isn't deleted with the user's row, and what happens to it instead.
KEPT: Mapping[str, str] = {
    "audit_events": "without address, user agent and details that identify anybody",
    "revocations": "ids only, until retention.revocations",
    "rate_limits": "keyed hashes, until the limit has recovered",
}

EMAIL = "Grace.Hopper+navy@Example.Test"
NEW_EMAIL = "grace.murray@Example.Test"
NAME = "Amazing Grace Hopper"
DEVICE = "device-of-grace-1906"
CLIENT = {"ip": "203.0.113.86", "user_agent": "Mark-I/1944 (Harvard)", "device_id": DEVICE}
TRACES = (EMAIL, EMAIL.lower(), "grace.hopper", NEW_EMAIL, "grace.murray", NAME, *CLIENT.values())


async def test_each_column_with_personal_data_is_exported_or_excused(database_dsn: str) -> None:
    found = await personal_columns(database_dsn)
    elsewhere = {column for column in found if column[0] not in EXPORTED}
    assert elsewhere - set(EXCUSED) == set(), "export it (core/accounts/own_data.py) or excuse it"
    assert set(EXCUSED) - found == set(), "no longer there, or no longer in need of an excuse"
    assert {table for table, _ in found} >= EXPORTED


@pytest.mark.parametrize(
    "column",
    [
        "user_id uuid",
        "owner uuid REFERENCES users",
        "of_session uuid REFERENCES sessions",
        "email text",
        "seen_from inet",
        "block cidr",
        "display_name text",
        "user_agent text",
        "device_hash bytea",
        "payload jsonb",
    ],
)
async def test_new_column_with_personal_data_is_noticed(column: str, database_dsn: str) -> None:
    connection = await asyncpg.connect(database_dsn)
    await connection.execute(f"CREATE TABLE novelties (id bigint PRIMARY KEY, {column})")
    await connection.close()
    found = await personal_columns(database_dsn) - set(EXCUSED)
    name = column.partition(" ")[0]
    assert {each for each in found if each[0] not in EXPORTED} == {("novelties", name)}


async def test_users_rows_are_deleted_on_cascade(database_dsn: str) -> None:
    assert await keeping_constraints(database_dsn) == set()
    found = {table for table, column in await personal_columns(database_dsn) if column == "user_id"}
    connection = await asyncpg.connect(database_dsn)
    rows = await connection.fetch(
        "SELECT DISTINCT conrelid::regclass::text AS name FROM pg_constraint"
        " WHERE contype = 'f' AND confrelid = 'users'::regclass"
    )
    await connection.close()
    assert found - {row["name"] for row in rows} - {"users"} <= set(KEPT)


def dump(dsn: str) -> str:
    """Return a dump of the whole database, unlogged tables included, folded to lower case."""
    program = find_binaries() / "pg_dump"
    if not program.is_file():
        pytest.skip(f"there is no pg_dump in {program.parent}")
    command = [str(program), "--data-only", "--inserts", f"--dbname={dsn}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    text: str = done.stdout
    return text.casefold()


def forms(text: str) -> Iterator[str]:
    """Yield the forms in which careless code may store a text: plain, encoded, or just hashed."""
    for each in {text, text.lower()}:
        raw = each.encode()
        yield from (each, raw.hex(), base64.b64encode(raw).decode().rstrip("="))
        yield base64.urlsafe_b64encode(raw).decode().rstrip("=")
        for algorithm in ("md5", "sha1", "sha256", "sha512"):
            digest = hashlib.new(algorithm, raw, usedforsecurity=False).digest()
            yield from (digest.hex(), base64.b64encode(digest).decode().rstrip("="))


def traces(dumped: str) -> set[str]:
    """Return what of the user's data is in a dump, in any form."""
    return {text for text in TRACES if any(form.casefold() in dumped for form in forms(text))}


async def live(service: Service) -> Tokens:
    """Do what a user does, from one client: succeed, fail, and leave things half done."""
    auth, account, client = service.auth(), service.account(), ClientContext(**CLIENT)
    stranger = auth_pb.LoginRequest(email=EMAIL, password=WRONG, client=client)
    # No account has the address yet. These events are nobody's, and keep the client for a while.
    before = ClientContext(ip="198.51.100.1", user_agent="Before/1")
    await outcome(auth.Login(auth_pb.LoginRequest(email=EMAIL, password=WRONG, client=before)))
    await auth.RequestPasswordReset(auth_pb.RequestPasswordResetRequest(email=EMAIL, client=before))
    registration = auth_pb.RegisterRequest(
        email=EMAIL, password=PASSWORD, display_name=NAME, client=client
    )
    user_id = (await auth.Register(registration)).user_id
    await service.prove(user_id)
    for _ in range(3):
        await outcome(auth.Login(stranger))
    login = auth_pb.LoginRequest(email=EMAIL, password=PASSWORD, client=client)
    tokens = (await auth.Login(login)).tokens
    bearer = (("authorization", f"Bearer {tokens.access_token}"),)
    await account.UpdateAccount(pb.UpdateAccountRequest(display_name=f"{NAME}!"), metadata=bearer)
    refresh = auth_pb.RefreshTokensRequest(refresh_token=tokens.refresh_token, client=client)
    await auth.RefreshTokens(refresh)
    await auth.RequestLoginCode(auth_pb.RequestLoginCodeRequest(email=EMAIL, client=client))
    await outcome(
        auth.ResetPassword(
            auth_pb.ResetPasswordRequest(
                email=EMAIL, code="00000000", new_password=f"{PASSWORD}-2", client=client
            )
        )
    )
    await auth.RequestPasswordReset(auth_pb.RequestPasswordResetRequest(email=EMAIL, client=client))
    await auth.BeginPasskeyLogin(auth_pb.BeginPasskeyLoginRequest(email=EMAIL))
    await account.RequestEmailChange(
        pb.RequestEmailChangeRequest(new_email=NEW_EMAIL, client=client), metadata=bearer
    )
    await account.CreateApiKey(pb.CreateApiKeyRequest(name=NAME), metadata=bearer)
    await account.EnrollTotp(pb.EnrollTotpRequest(name=NAME), metadata=bearer)
    await service.fetch(
        "INSERT INTO identities (provider, subject, user_id, email, create_time, last_use_time)"
        " VALUES ('github', '1906', $1, $2, now(), now())",
        user_id,
        EMAIL,
    )
    return tokens


async def test_dump_after_deletion_holds_no_trace_of_the_user(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(
        live_settings.model_copy(
            update={
                "brute_force": unlimited(),
                "codes": unlimited_codes(),
                "passwords": cheap_passwords(),
            }
        )
    )
    dsn = live_settings.database.url.get_secret_value()
    tokens = await live(service)
    dumped = await asyncio.to_thread(dump, dsn)
    # The dump is whole: everything is found in it before the deletion.
    assert traces(dumped) == set(TRACES)
    assert "insert into public.rate_limits" in dumped

    bearer = (("authorization", f"Bearer {tokens.access_token}"),)
    await service.account().DeleteAccount(pb.DeleteAccountRequest(), metadata=bearer)
    assert traces(await asyncio.to_thread(dump, dsn)) == set()
