"""Owns what `authsvc config check` does beyond the settings themselves: it uses what they name."""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, SecretStr
from structlog.typing import EventDict

from authsvc.app.addresses import IN_USE, why_unusable
from authsvc.app.web_connections import WebTls
from authsvc.cli.log_capture import captured_logs, why
from authsvc.config import ConfigError, DatabaseSettings, Settings
from authsvc.core.lib.clock import SystemClock
from authsvc.core.lib.sealing import Keyring
from authsvc.core.messages.delivery import NotDelivered
from authsvc.core.secrets_at_rest.key_usage import KeyUsage
from authsvc.errors import (
    ProviderMisconfigured,
    ProviderUnavailable,
    ServerError,
    ServiceError,
)
from authsvc.measures import Counts
from authsvc.outbound.breached_passwords import open_ranges
from authsvc.outbound.http import open_session
from authsvc.outbound.providers import open_providers
from authsvc.outbound.proxy import proxy_rules
from authsvc.outbound.transport import build_transport
from authsvc.rpc.tls import ServerCertificate
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.failures import describe
from authsvc.store.postgres.migrator import SchemaError, check_schema


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of using one thing that the settings name; `problem` is None if it works."""

    name: str
    problem: str | None = None
    detail: str = ""


def check_files(settings: Settings) -> list[str]:
    """Return a line for each file that can't be read, and for what is wrong with the messages."""
    problems = [
        f"{key}: {path}: {os.strerror(why)}"
        for key, path in _files(settings, "")
        if (why := _why_unreadable(path))
    ]
    try:
        build_transport(settings.delivery, proxy_rules(settings.outbound), SystemClock())
    except ConfigError as error:
        # That a file is missing is not told twice.
        told = {problem.partition(":")[0] for problem in problems}
        problems += [line for line in error.problems if line.partition(":")[0] not in told]
    return problems


def _files(part: BaseModel, prefix: str) -> Iterator[tuple[str, Path]]:
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, Path) and name.endswith("_file"):
            yield f"{prefix}{name}", value
        inner = value if isinstance(value, dict) else {name: value}
        before = f"{prefix}{name}." if isinstance(value, dict) else prefix
        for key, section in inner.items():
            if isinstance(section, BaseModel):
                yield from _files(section, f"{before}{key}.")


def _why_unreadable(path: Path) -> int:
    try:
        with path.open("rb") as stream:
            stream.read(1)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


async def check_deeply(settings: Settings) -> list[Finding]:
    """Use everything that the settings name, and return what came of it, in their order."""
    findings = [*check_addresses(settings), *check_certificates(settings)]
    databases = await _databases(settings.database)
    findings += databases
    if not any(each.problem for each in databases):
        findings.append(await _keys(settings))
    findings += await check_delivery(settings)
    findings += await check_breached_passwords(settings)
    findings += await check_providers(settings)
    return findings + await check_telemetry(settings)


def check_addresses(settings: Settings) -> list[Finding]:
    """Return whether this machine can listen on the addresses."""
    return [
        _address("grpc.address", settings.grpc.address),
        _address("http.address", settings.http.address),
    ]


def check_certificates(settings: Settings) -> list[Finding]:
    """Return whether the ports can be started with their certificates, keys and authorities."""
    findings = [_certificate("tls", lambda: ServerCertificate(settings.tls).served.leaf)]
    if (tls := settings.http.tls) is not None:
        findings.append(_certificate("http.tls", lambda: WebTls(tls)))
    return findings


def _address(name: str, address: str) -> Finding:
    problem = why_unusable(address)
    # By the service itself, most likely.
    return Finding(name, None if problem == IN_USE else problem, address)


def _certificate(name: str, use: Callable[[], object]) -> Finding:
    try:
        use()
    except ServerError as error:
        return Finding(name, str(error))
    return Finding(name, detail="certificate, key and authorities fit one another")


async def _databases(settings: DatabaseSettings) -> list[Finding]:
    urls = {"database.url": settings.url, "database.listener_url": settings.listener_url}
    return [await _database(name, settings, url) for name, url in urls.items() if url]


async def _database(name: str, settings: DatabaseSettings, url: SecretStr) -> Finding:
    try:
        database = await Database.open(settings.model_copy(update={"url": url, "pool_min": 1}))
        try:
            async with database.connection() as connection:
                await check_schema(connection)
        finally:
            await database.close()
    except ServiceError as error:
        return Finding(name, describe(error))
    except SchemaError as error:
        return Finding(name, str(error))
    return Finding(name, detail="reachable, with this version's schema")


async def _keys(settings: Settings) -> Finding:
    database = await Database.open(settings.database.model_copy(update={"pool_min": 1}))
    try:
        await key_usage(settings, database).check()
    except ServerError as error:
        return Finding("secrets", str(error))
    except ServiceError as error:
        return Finding("secrets", describe(error))
    finally:
        await database.close()
    return Finding("secrets", detail="every key and pepper in use is there")


def key_usage(settings: Settings, database: Database) -> KeyUsage:
    """Return what knows which keys and peppers of the settings are in use."""
    return KeyUsage(
        database=database,
        keyring=Keyring(settings.secrets.keyring),
        pepper_ids=[pepper.id for pepper in settings.secrets.peppers],
        missing_keys=settings.encryption.missing_keys,
    )


async def check_delivery(settings: Settings) -> list[Finding]:
    """Return whether the mail server or webhook would accept messages; none is sent.

    Raises ConfigError if a file that `delivery` names can't be used.
    """
    transport = build_transport(settings.delivery, proxy_rules(settings.outbound), SystemClock())
    if transport is None:
        return [Finding("delivery", detail="messages are not sent")]
    name = f"delivery.{transport.channel.name}"
    try:
        await transport.channel.check()
    except NotDelivered as error:
        cause = f": {error.__cause__}" if isinstance(error.__cause__, OSError) else ""
        return [Finding(name, f"messages could not be sent: {error.explanation}{cause}")]
    finally:
        await transport.channel.close()
    return [Finding(name, detail="accepts connections")]


async def check_breached_passwords(settings: Settings) -> list[Finding]:
    """Return whether the service of breached passwords answers, if there is one."""
    async with open_session() as http:
        key = "passwords.breached"
        try:
            ranges = open_ranges(settings.passwords.breached, http, proxy_rules(settings.outbound))
        except ConfigError as error:
            return [Finding(key, problem) for problem in error.problems]
        if ranges is None:
            return []
        with captured_logs() as lines:
            try:
                found = await ranges.fetch("00000")
            except (ProviderMisconfigured, ProviderUnavailable):
                return [Finding(key, _why_unavailable(lines, "answer"))]
        return [Finding(key, detail=f"knows {len(found)} passwords of the range 00000")]


async def check_providers(settings: Settings) -> list[Finding]:
    """Return whether each identity provider can be used; no user logs in."""
    async with open_session() as http:
        providers = open_providers(
            settings.oauth, http, proxy_rules(settings.outbound), SystemClock()
        )
        findings = []
        for name in settings.oauth.providers:
            key = f"oauth.providers.{name}"
            with captured_logs() as lines:
                try:
                    async with providers.use(name) as found:
                        await found.check()
                except (ProviderMisconfigured, ProviderUnavailable):
                    findings.append(Finding(key, _why_unavailable(lines, "answers")))
                else:
                    findings.append(Finding(key, detail="answers, and knows the client"))
    return findings


async def check_telemetry(settings: Settings) -> list[Finding]:
    """Return whether the collector takes what is sent to it, if there is one; nothing is sent."""
    if settings.telemetry.otlp_endpoint is None:
        return []
    from authsvc.telemetry.sender import NotSent, open_senders  # noqa: PLC0415 - an extra

    key = "telemetry.otlp_endpoint"
    try:
        senders = open_senders(settings.telemetry, Counts())
    except ConfigError as error:
        return [Finding(key, problem) for problem in error.problems]
    findings = []
    with captured_logs():
        for signal, sender in senders.items():
            try:
                await sender.send(b"")
            except NotSent as error:
                problem = f"the collector takes no {signal.value}: {error}"
                findings.append(Finding(key, problem))
            else:
                findings.append(Finding(key, detail=f"the collector takes {signal.value}"))
            finally:
                await sender.close()
    return findings


def _why_unavailable(lines: list[EventDict], what: str) -> str:
    """Return the cause as the log has it, which is where it is told."""
    return f"its {what} can't be used: {why(lines) or 'no answer as it should be'}"
