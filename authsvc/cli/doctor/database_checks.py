"""Owns the checks of the database: reached, recent, ours to use, near, migrated, and durable."""

import asyncio
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence

from authsvc.cli.doctor.deployment import Deployment
from authsvc.cli.doctor.findings import Finding, Skip, error, ok, warning
from authsvc.errors import StoreUnavailable
from authsvc.store import doorbell, inspection
from authsvc.store.doorbell import Channel, PoolerError, Subscription
from authsvc.store.postgres import migrator
from authsvc.store.postgres.failures import describe
from authsvc.store.postgres.migrator import SchemaError

_ROUND_TRIPS = 11
# Seconds: a call waits for up to three of them, and validations for none.
_SLOW, _TOO_SLOW = 0.005, 0.05
# Seconds that two clocks differ: from then on the service logs it; and what neither certificates
# nor other services' checks of tokens bear.
_NOTABLE, _TOO_FAR = 1.0, 30.0
_SENDER = "doctor"
# The part of the server's connections that may be in use.
_MOST_USED = 0.8
_SESSION_SETTINGS = (
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "synchronous_standby_names",
    "autovacuum",
    "default_transaction_isolation",
    "wal_writer_delay",
)
# Milliseconds: three of them are what durable limits may lose in a crash, less than a second.
_LONGEST_WAL_DELAY = 300


async def reachable(deployment: Deployment) -> Sequence[Finding]:
    """Connect as the service does."""
    began = time.perf_counter()
    try:
        database = await deployment.reach_database()
    except StoreUnavailable as failure:
        return [
            error(
                f"database.url: {describe(failure)}",
                "start the server, or correct the address, the password, sslrootcert or the"
                " network rules; checks that need it were skipped",
            )
        ]
    await database.ping()
    return [ok(f"connected in {(time.perf_counter() - began) * 1000:.0f} ms, and writable")]


async def version(deployment: Deployment) -> Sequence[Finding]:
    """Check the version of the server, and the encoding of the database."""
    async with (await deployment.database()).connection() as connection:
        found = await inspection.read_version(connection)
    findings = []
    if found.major < inspection.OLDEST_VERSION:
        findings.append(
            error(
                f"PostgreSQL {found.text} is older than {inspection.OLDEST_VERSION}",
                f"upgrade the server to PostgreSQL {inspection.OLDEST_VERSION} or newer",
            )
        )
    if found.encoding != "UTF8":
        findings.append(
            error(
                f"the database's encoding is {found.encoding}, so not every name can be stored",
                "create the database with ENCODING 'UTF8' TEMPLATE template0, and copy the data",
            )
        )
    return findings or [ok(f"PostgreSQL {found.text}, {found.encoding}")]


async def rights(deployment: Deployment) -> Sequence[Finding]:
    """Check that the role may do what it must, and not much more."""
    async with (await deployment.database()).connection() as connection:
        role = await inspection.read_role(connection)
        missing = await inspection.missing_rights(connection, migrator.tables())
        identifies = await inspection.can_identify_server(connection)
    findings = [
        warning(
            f"the role {role.name} {power}, which the service does not need",
            "let it connect as a role of its own that owns only its tables",
        )
        for power in role.powers
    ]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if missing[5:] else "")
        findings.append(
            error(
                f"the role {role.name} lacks {shown}",
                "let the role own the tables, or GRANT SELECT, INSERT, UPDATE, DELETE on them",
            )
        )
    if not identifies:
        findings.append(
            warning(
                f"the role {role.name} may not ask which server this is, so another timeline after"
                " a failover is noticed later",
                "GRANT EXECUTE ON FUNCTION pg_control_system() and pg_walfile_name(pg_lsn) to it,"
                " where the provider allows that",
            )
        )
    return findings or [ok(f"the role {role.name} has what it needs, and no power over others")]


async def latency(deployment: Deployment) -> Sequence[Finding]:
    """Measure round trips to the server."""
    async with (await deployment.database()).connection() as connection:
        taken = await inspection.round_trips(connection, _ROUND_TRIPS)
    median = statistics.median(taken)
    text = f"a round trip takes {median * 1000:.1f} ms (median), at most {max(taken) * 1000:.1f} ms"
    remedy = (
        "run the service where the database's primary is (same zone), and look at the load of the"
        " server and of a pooler in between"
    )
    if median > _TOO_SLOW:
        return [error(text, remedy)]
    return [warning(text, remedy) if median > _SLOW else ok(text)]


async def pooler(deployment: Deployment) -> Sequence[Finding]:
    """Find out whether there is a pooler, and whether the settings fit it."""
    found = await inspection.read_pooling(await deployment.database())
    settings = deployment.settings.database
    if found.is_direct and found.shares_sessions:
        return [
            error(
                "a pooler that passes itself off as the server shares sessions among connections,"
                " so prepared statements meet the wrong one",
                "add prepared_statements=false to database.url, or let the pooler pool by session",
            )
        ]
    if found.is_direct:
        return [
            ok(
                "no pooler: statements are prepared once a connection, at most"
                f" {settings.statement_cache_size} (database.statement_cache_size)"
            )
        ]
    mode = "transaction pooling" if found.shares_sessions else "session pooling, as far as seen"
    text = f"a pooler with {mode}; statements are sent unnamed, which every mode passes on"
    if settings.listener_url is None:
        return [
            warning(
                f"{text}. Notifications don't pass it, so revocations and messages are polled for",
                "set database.listener_url to a direct address of the server",
            )
        ]
    return [ok(f"{text}; database.listener_url passes it by")]


async def listener(deployment: Deployment) -> Sequence[Finding]:
    """Listen as the service does, and let a notification arrive."""
    settings = deployment.settings.database
    name = "database.listener_url" if settings.listener_url else "database.url"
    database = await deployment.database()
    arrived = asyncio.Event()

    def receive(_channel: Channel, sender: str) -> None:
        if sender == _SENDER:
            arrived.set()

    try:
        subscription = await Subscription.open(settings, receive, lambda: None)
    except PoolerError:
        if settings.listener_url is None:
            raise Skip("database.url leads to a pooler: see database.pooler") from None
        return [
            error(
                "database.listener_url leads to a pooler, which notifications don't pass",
                "set it to the address of the server itself",
            )
        ]
    except StoreUnavailable as failure:
        return [
            error(
                f"{name}: {describe(failure)}",
                "correct the address, or let the service reach it; until then revocations are"
                " polled for, and `authsvc migrate` fails",
            )
        ]
    try:
        began = time.perf_counter()
        async with database.connection() as connection:
            await doorbell.notify(connection, [Channel.DEFINITIONS], _SENDER)
        await arrived.wait()
    finally:
        subscription.close()
    taken = (time.perf_counter() - began) * 1000
    return [ok(f"{name} is direct; a notification arrived after {taken:.1f} ms")]


async def schema(deployment: Deployment) -> Sequence[Finding]:
    """Check that the migrations of this version were applied, and that no index is broken."""
    database = await deployment.database()
    try:
        async with database.connection() as connection:
            await migrator.check_schema(connection)
            ahead = await migrator.newest_applied(connection) - len(migrator.shipped())
            broken = await inspection.invalid_indexes(connection, migrator.tables())
    except SchemaError as failure:
        return [error(str(failure), "run `authsvc migrate`; see its --dry-run first")]
    findings = [
        warning(
            f"the index {name} is not valid: its building was interrupted",
            f"run REINDEX INDEX CONCURRENTLY {name}",
        )
        for name in broken
    ]
    if ahead > 0:
        findings.append(
            warning(
                f"the database has {ahead} migrations of a later version; this one can serve on it",
                "go on with the upgrade, or see its notes on the way back",
            )
        )
    return findings or [ok(f"all {len(migrator.shipped())} migrations were applied")]


async def connections(deployment: Deployment) -> Sequence[Finding]:
    """Compare the connections of all replicas with what the server has."""
    async with (await deployment.database()).connection() as connection:
        role = await inspection.read_role(connection)
        found = await inspection.count_connections(connection)
        settings = await inspection.read_settings(
            connection,
            ("max_connections", "superuser_reserved_connections", "reserved_connections"),
        )
    limits = {"server": _for_all(settings)} | dict(role.connection_limits)
    per_replica = deployment.settings.database.connections
    replicas = deployment.options.replicas or max(1, found.clients)
    needed = per_replica * replicas
    count = "1 replica" if replicas == 1 else f"{replicas} replicas"
    source = "" if deployment.options.replicas else " (as counted; --replicas says how many)"
    text = f"{count}{source} can open {needed} connections, {per_replica} each"
    findings = [
        error(
            f"{text}, but the {name} allows {limit}",
            "lower database.pool_max, raise the limit, or put a pooler in between",
        )
        if needed > limit
        else warning(
            f"{text}, of {limit} that the {name} allows: a rolling update, which has one replica"
            " more, has no room",
            "lower database.pool_max, raise the limit, or put a pooler in between",
        )
        for name, limit in limits.items()
        if needed + per_replica > limit
    ]
    if found.all_of_server > _MOST_USED * limits["server"]:
        findings.append(
            warning(
                f"{found.all_of_server} of the server's {limits['server']} connections are in use"
                f" now, {found.own} of them by this role",
                "find out who holds them (pg_stat_activity), or raise max_connections",
            )
        )
    return findings or [ok(f"{text}; the server allows {limits['server']}")]


def _for_all(settings: Mapping[str, str]) -> int:
    """Return how many connections are for roles that are no superusers."""
    most = int(settings["max_connections"])
    return most - sum(int(value) for name, value in settings.items() if "reserved" in name)


async def durability(deployment: Deployment) -> Sequence[Finding]:
    """Check the server's settings on which acknowledged writes, and the service's SQL, rest."""
    async with (await deployment.database()).connection() as connection:
        settings = await inspection.read_settings(connection, _SESSION_SETTINGS)
        standbys = await inspection.count_standbys(connection)
    findings = list(_losses(settings, standbys))
    if settings["default_transaction_isolation"] != "read committed":
        findings.append(
            error(
                f"default_transaction_isolation is {settings['default_transaction_isolation']},"
                " so statements that wait for one another fail",
                "set it to 'read committed' for this role: ALTER ROLE … SET …",
            )
        )
    if settings["autovacuum"] == "off":
        findings.append(
            error(
                "autovacuum is off: the tables of limits and sessions grow without bound",
                "turn it on",
            )
        )
    text = f"synchronous_commit is {settings['synchronous_commit']}, standbys: {standbys}"
    return findings or [ok(text)]


def _losses(settings: Mapping[str, str], standbys: int) -> Iterator[Finding]:
    for name in ("fsync", "full_page_writes"):
        if settings[name] == "off":
            yield error(f"{name} is off: a crash can destroy the database", f"turn {name} on")
    commit, names = settings["synchronous_commit"], settings["synchronous_standby_names"]
    if commit == "off":
        yield error(
            "synchronous_commit is off: a crash takes back what was acknowledged, such as"
            " revocations",
            "set it to on for this role; the service itself relaxes it where that is safe",
        )
    elif names and commit in {"local", "remote_write"}:
        yield warning(
            f"synchronous_commit is {commit}: a failover can take back what was acknowledged",
            "set it to on",
        )
    if standbys and not names:
        yield warning(
            f"{standbys} standbys follow, none of them synchronously: a failover can take back the"
            " last revocations",
            "name them in synchronous_standby_names, such as 'ANY 1 (*)', if none may be lost",
        )
    if int(settings["wal_writer_delay"]) > _LONGEST_WAL_DELAY:
        yield warning(
            f"wal_writer_delay is {settings['wal_writer_delay']} ms: a crash loses up to three"
            " times as much of the durable limits",
            f"set it to at most {_LONGEST_WAL_DELAY}ms; 200ms is the default",
        )


async def clock(deployment: Deployment) -> Sequence[Finding]:
    """Compare this machine's clock with the database's."""
    skew = (await deployment.clock()).skew()
    if abs(skew) <= _NOTABLE:
        return [ok(f"this machine's clock is {skew * 1000:+.0f} ms off the database's")]
    side = "ahead of" if skew > 0 else "behind"
    text = f"this machine's clock is {abs(skew):.1f} s {side} the database's"
    remedy = (
        "synchronize both (chrony, systemd-timesyncd): tokens carry the database's time,"
        " certificates are judged by this machine's"
    )
    return [error(text, remedy) if abs(skew) > _TOO_FAR else warning(text, remedy)]
