"""Owns how the numbers are shown: tables that fit the terminal, or plain text in a pipe."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from authsvc.cli.output import plain_text
from authsvc.cli.top.snapshot import LoginRow, MethodRow, PolicyRow, ReplicaRow, Snapshot

# Columns from which on two tables stand side by side.
_WIDE = 150
_GAP = 3
_NUMBER = 7
_SHORTEST_NAME = 12
_FEWEST_ROWS = 3
# Lines of a view without the rows of its tables.
_FRAME = 26
_DAY = 86_400
# A certificate that ends sooner, and a key older than that part of its time, are marked.
_SOON = 7 * _DAY
_OVERDUE = 1.2
_NOTHING = "-"
_PACKAGE = "/authsvc.v1."

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class _Column(Generic[Row]):
    """A column of numbers, which is left out in a terminal narrower than `from_width`."""

    title: str
    cell: Callable[[Row], str]
    from_width: int = 0


_REPLICA: Sequence[_Column[ReplicaRow]] = (
    _Column("up", lambda row: _age(row.uptime_seconds), 50),
    _Column("calls/s", lambda row: _rate(row.calls_per_second)),
    _Column("in flight", lambda row: _number(row.in_flight), 72),
    _Column("loop p99", lambda row: _time(row.loop_lag_p99_seconds)),
    _Column("revoked", lambda row: _time(row.revocation_age_seconds), 72),
    _Column("version", lambda row: plain_text(row.version), _WIDE),
    _Column("settings", lambda row: plain_text(row.settings), _WIDE),
)
_METHOD: Sequence[_Column[MethodRow]] = (
    _Column("calls/s", lambda row: _rate(row.calls_per_second)),
    _Column("refused/s", lambda row: _rate(row.refused_per_second), 72),
    _Column("failed/s", lambda row: _rate(row.failed_per_second), 50),
    _Column("p50", lambda row: _time(row.p50_seconds), 72),
    _Column("p99", lambda row: _time(row.p99_seconds)),
)
_POLICY: Sequence[_Column[PolicyRow]] = (
    _Column("allowed/s", lambda row: _rate(row.allowed_per_second), 50),
    _Column("refused/s", lambda row: _rate(row.refused_per_second)),
    _Column("shadow/s", lambda row: _rate(row.shadow_per_second), 72),
)
_LOGIN: Sequence[_Column[LoginRow]] = (
    _Column("succeeded/s", lambda row: _rate(row.of("succeeded"))),
    _Column("failed/s", lambda row: _rate(row.of("failed"))),
    _Column("throttled/s", lambda row: _rate(row.of("throttled")), 72),
    _Column("others/s", lambda row: _rate(row.others("succeeded", "failed", "throttled")), 72),
)


def view(shown: Snapshot, width: int, height: int) -> RenderableType:
    """Return the view of these numbers for a terminal of this size."""
    most = max(_FEWEST_ROWS, (height - _FRAME - len(shown.replicas)) // 2)
    half = (width - _GAP) // 2 if width >= _WIDE else width
    tables = [
        _table("method", _METHOD, [(_method(row), row) for row in shown.methods[:most]], half),
        _more(len(shown.methods) - most),
        _table("policy", _POLICY, [(row.policy, row) for row in shown.policies[:most]], half),
        _more(len(shown.policies) - most),
        _table("login", _LOGIN, [(row.method, row) for row in shown.logins], half),
    ]
    parts: list[RenderableType] = [
        Text(_headline(shown), style="bold"),
        _table("replica", _REPLICA, [(_name(row), row) for row in shown.replicas], width),
    ]
    if width >= _WIDE:
        beside = Table.grid(padding=(0, _GAP, 0, 0))
        beside.add_row(Group(*tables[:2]), Group(*tables[2:]))
        parts.append(beside)
    else:
        parts += tables
    return Group(*parts, *map(Text, _lines(shown)))


def _table(
    title: str, columns: Sequence[_Column[Row]], rows: Sequence[tuple[str, Row]], width: int
) -> Table:
    """Return a table of named rows; names are cut off where there is no room for them."""
    shown = [column for column in columns if width >= column.from_width]
    widths = [max(len(column.title), _NUMBER) for column in shown]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    room = max(_SHORTEST_NAME, width - 2 - sum(widths) - 2 * len(widths))
    table.add_column(title, no_wrap=True, overflow="ellipsis", max_width=room)
    for column, least in zip(shown, widths, strict=True):
        table.add_column(column.title, no_wrap=True, justify="right", min_width=least)
    for name, row in rows:
        table.add_row(Text(plain_text(name)), *(column.cell(row) for column in shown))
    if not rows:
        table.add_row(Text("nothing at the moment", style="dim"))
    return table


def _more(count: int) -> RenderableType:
    return Text(f"and {count} more", style="dim") if count > 0 else Group()


def _method(row: MethodRow) -> str:
    return row.method.removeprefix(_PACKAGE)


def _name(row: ReplicaRow) -> str:
    if row.problem:
        return f"{row.name}: {row.problem}"
    if row.database_down:
        return f"{row.name} (no database)"
    return f"{row.name} (restart needed)" if row.restart_needed else row.name


def _headline(shown: Snapshot) -> str:
    calls = sum(row.calls_per_second for row in shown.methods)
    failed = sum(row.failed_per_second for row in shown.methods)
    up = sum(not row.problem for row in shown.replicas)
    over = f", over {shown.seconds:.1f} s" if shown.seconds else ", first look"
    return (
        f"{up} of {len(shown.replicas)} replicas, {_rate(calls)} calls/s,"
        f" {_rate(failed)} failed/s{over}"
    )


def _lines(shown: Snapshot) -> Iterator[str]:
    gauges = shown.gauges
    yield (
        f"hashing: {_number(gauges['hashes_running'])} running,"
        f" {_number(gauges['hashes_queued'])} queued,"
        f" waited {_time(gauges['hash_queue_p95_seconds'])} (p95)"
    )
    yield (
        f"pool: {_number(gauges['pool_in_use'])} of {_number(gauges['pool_max'])} in use,"
        f" {_number(gauges['pool_waiting'])} waiting,"
        f" waited {_time(gauges['pool_wait_p99_seconds'])} (p99)"
    )
    yield (
        f"revocations: read {_time(gauges['revocation_age_seconds'])} ago, known after"
        f" {_time(gauges['revocation_delay_p99_seconds'])} (p99),"
        f" {_number(gauges['revocation_watchers'])} watchers"
    )
    yield (
        f"refusals: {_rate(gauges['shed_per_second'])} shed/s,"
        f" {_rate(gauges['blocked_per_second'])} blocked/s,"
        f" {_number(gauges['ip_blocks'])} blocks,"
        f" {_number(gauges['login_freezes'])} freezes"
    )
    yield (
        f"messages: {_rate(gauges['messages_per_second'])} attempts/s,"
        f" {_number(gauges['outbox_pending'])} waiting,"
        f" {_number(gauges['outbox_abandoned'])} given up"
    )
    yield "keys: " + ", ".join(_keys(shown))
    yield from _warnings(shown)


def _keys(shown: Snapshot) -> Iterable[str]:
    gauges = shown.gauges
    yield (
        f"signing key {_age(gauges['signing_key_age_seconds'])} of"
        f" {_age(gauges['signing_key_rotate_after_seconds'])}"
    )
    end = gauges["certificate_expire_time_seconds"]
    yield f"certificate ends in {_age(None if end is None else end - time.time())}"
    yield f"keyring {_age(gauges['keyring_age_seconds'])}"
    yield f"pepper {_age(gauges['pepper_age_seconds'])}"


def _warnings(shown: Snapshot) -> Iterator[str]:
    gauges = shown.gauges
    found = [f"detected: {name}" for name in shown.detections]
    age, limit = gauges["signing_key_age_seconds"], gauges["signing_key_rotate_after_seconds"]
    if age is not None and limit is not None and age > _OVERDUE * limit:
        found.append("the signing key is not rotated")
    end = gauges["certificate_expire_time_seconds"]
    if end is not None and (left := end - time.time()) < _SOON:
        found.append("the certificate ends soon" if left > 0 else "the certificate has expired")
    if any(row.database_down for row in shown.replicas):
        found.append("the database can't be reached")
    if gauges["migrations_pending"]:
        found.append("migrations are pending")
    if len({row.settings for row in shown.replicas if row.settings}) > 1:
        found.append("replicas have different settings")
    if len({row.version for row in shown.replicas if row.version}) > 1:
        found.append("replicas have different versions")
    if found:
        yield f"look: {', '.join(found)} (authsvc doctor says what to do)"


def _rate(value: float | None) -> str:
    if value is None:
        return _NOTHING
    return f"{value:.1f}" if 0 < value < 10 else f"{value:,.0f}"


def _number(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:,.0f}"


def _time(seconds: float | None) -> str:
    if seconds is None or math.isinf(seconds):
        return _NOTHING if seconds is None else "never"
    return f"{seconds * 1000:.1f}ms" if seconds < 1 else f"{seconds:.1f}s"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return _NOTHING
    if seconds >= 2 * _DAY:
        return f"{seconds // _DAY:.0f}d"
    if seconds >= 2 * 3_600:
        return f"{seconds // 3_600:.0f}h"
    return f"{seconds // 60:.0f}m" if seconds >= 120 else f"{max(0.0, seconds):.0f}s"
