"""No secret leaks into the log, metrics, errors or the database.

The masking of the log, which is only a last resort, is off, so that these tests find what it would
hide.
"""

import base64
import hashlib
import hmac
import io
import os
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest
import pytest_asyncio

from authsvc.config import KeySettings, SecretSettings, Settings
from authsvc.core.lib.sealing import Keyring
from tests.support.accounts import EMAIL
from tests.support.clock import FakeClock
from tests.support.leaks import forms, leaks
from tests.support.life import PASSWORD, WEAK, WRONG, Life, call_everything
from tests.support.service import Service, StartService


def of_token(token: str) -> Iterator[str]:
    """Yield the secret parts of a token: all except the common prefix of its kind."""
    if token.count(".") == 2:
        _, payload, signature = token.split(".")
        yield from (payload, signature, base64.urlsafe_b64decode(signature + "==").hex())
        return
    encoded = token.partition("_")[2]
    yield encoded
    # A refresh token starts with the session's id, which is public.
    raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    yield (raw if len(raw) < 40 else raw[-20:]).hex()


@pytest.fixture
def own_secrets() -> SecretSettings:
    """Fresh random keys."""

    def key(name: str) -> KeySettings:
        return KeySettings.model_validate(
            {"id": name, "key": base64.b64encode(os.urandom(32)).decode()}
        )

    return SecretSettings(keyring=(key("k2"), key("k1")), peppers=(key("p2"), key("p1")))


@pytest_asyncio.fixture
async def life(
    lines: io.StringIO,
    own_secrets: SecretSettings,
    live_settings: Settings,
    start_service: StartService,
    clock: FakeClock,
) -> Life:
    settings = live_settings.model_copy(update={"secrets": own_secrets})
    return Life(await start_service(settings, clock), clock)


async def dump(service: Service) -> str:
    """Return everything in the database as text."""
    tables = await service.fetch(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition"
        " AND relnamespace = 'public'::regnamespace"
    )
    rows = []
    for (name,) in tables:
        rows += [row[0] for row in await service.fetch(f"SELECT t::text FROM {name} t")]
    return "\n".join(rows)


def secrets_of(life: Life) -> dict[str, list[str]]:
    """Return the secrets that must appear nowhere."""
    settings = life.service.settings
    secrets: dict[str, list[str]] = {}
    for name, password in (("password", PASSWORD), ("wrong", WRONG), ("weak", WEAK)):
        raw = password.encode()
        peppers = [pepper.key_bytes() for pepper in settings.secrets.peppers]
        digests = [
            *(raw, hashlib.sha256(raw).digest(), hashlib.sha1(raw).digest()),
            *(hmac.digest(pepper, raw, "sha256") for pepper in peppers),
        ]
        secrets[name] = [text for digest in digests for text in forms(digest)]
    for key in (*settings.secrets.keyring, *settings.secrets.peppers):
        secrets[f"key {key.id}"] = list(forms(key.key_bytes()))
    keyring = Keyring(settings.secrets.keyring)
    for purpose in ("refresh-token", "brute-force"):
        derived = keyring.derive(purpose)
        secrets[f"key for {purpose}"] = [text for key in derived for text in forms(key)]
    private = life.service.app.web._keys.active._secret.private_numbers().private_value
    secrets["signing key"] = [str(private), *forms(private.to_bytes(32, "big"))]
    login = urlsplit(settings.database.url.get_secret_value())
    secrets["database password"] = [login.password or ""]
    for number, tokens in enumerate(life.given):
        for kind in ("access_token", "refresh_token", "session_token", "csrf_token"):
            if token := getattr(tokens, kind):
                secrets[f"{kind} {number}"] = list(of_token(token))
    return secrets


async def hashes_of(life: Life) -> dict[str, list[str]]:
    """Return the hashes that must appear nowhere but in the database."""
    hashes: dict[str, list[str]] = {}
    for number, tokens in enumerate(life.given):
        for kind in ("access_token", "refresh_token", "session_token", "csrf_token"):
            digest = hashlib.sha256(getattr(tokens, kind).encode()).digest()
            hashes[f"hash of {kind} {number}"] = list(forms(digest))
    for number, row in enumerate(await life.service.fetch("SELECT password_hash FROM users")):
        hashes[f"hash of password {number}"] = row["password_hash"].split("$")[-2:]
    return hashes


async def metrics(service: Service) -> str:
    address = f"http://127.0.0.1:{service.app.http_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(address) as response:
        return await response.text()


async def test_whole_account_lifecycle_leaks_no_secret(life: Life, lines: io.StringIO) -> None:
    await life.live()
    written = "\n".join((lines.getvalue(), await metrics(life.service), *life.told))
    stored = await dump(life.service)
    secrets = secrets_of(life)

    assert leaks(written, secrets | await hashes_of(life)) == set()
    assert leaks(stored, secrets) == set()

    # The texts searched are not empty.
    assert life.reasons == {
        *("FIELD_INVALID", "EMAIL_INVALID", "EMAIL_TAKEN", "PASSWORD_WEAK"),
        *("CREDENTIALS_INVALID", "TOO_MANY_ATTEMPTS", "BEARER_INVALID", "CALLER_NOT_ALLOWED"),
        *("REFRESH_TOKEN_INVALID", "REFRESH_TOKEN_REUSED", "POLICY_UNKNOWN"),
    }
    for word in ("call_failed", '"level":"debug"', "session.refresh_reuse", "authsvc_rpc_calls"):
        assert word in written
    for word in ("session.refresh_reuse", EMAIL, "$argon2id$", "authsvc.login.ip"):
        assert word in stored
    for name, texts in secrets.items():
        assert name in leaks(f"… {texts[0]} …", secrets)


FAULTS: Mapping[str, str] = {
    "users": "ALTER TABLE users ADD CONSTRAINT fault CHECK (email IS NULL) NOT VALID",
    "sessions": "ALTER TABLE sessions ADD CONSTRAINT fault CHECK (user_agent IS NULL) NOT VALID",
    "column": "ALTER TABLE users RENAME COLUMN password_hash TO fault",
    "table": "ALTER TABLE audit_events RENAME TO fault",
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_internal_error_leaks_no_secret(fault: str, life: Life, lines: io.StringIO) -> None:
    await life.service.register(EMAIL, PASSWORD)
    tokens = await life.login()
    hashes = await hashes_of(life)
    await life.service.fetch(FAULTS[fault])
    await call_everything(life, tokens)
    written = "\n".join((lines.getvalue(), *life.told))
    assert "INTERNAL" in life.reasons
    assert "Traceback" in written
    assert leaks(written, secrets_of(life) | hashes) == set()
    # Operators have to learn the cause.
    assert "asyncpg" in lines.getvalue()
    assert not any(word in "\n".join(life.told) for word in ("asyncpg", "column", "relation"))


async def test_outage_leaks_no_secret(life: Life, lines: io.StringIO) -> None:
    await life.service.register(EMAIL, PASSWORD)
    tokens = await life.login()
    hashes = await hashes_of(life)
    address = urlsplit(life.service.settings.database.url.get_secret_value())
    name = address.path.removeprefix("/")
    connection = await asyncpg.connect(address._replace(path="/postgres").geturl())
    await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
    )
    await call_everything(life, tokens)
    await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await connection.close()
    written = "\n".join((lines.getvalue(), *life.told))
    assert "STORE_UNAVAILABLE" in life.reasons
    assert leaks(written, secrets_of(life) | hashes) == set()
