"""Owns the arithmetic of `authsvc size`: what a load needs, by the measured costs of calls."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from authsvc.config import DatabaseSettings, PasswordSettings, footprint
from authsvc.config.database import OUTSIDE_POOL

COSTS = Path(__file__).with_name("costs.toml")

# How much of a replica's event loop, of the hashing threads and of the database is planned for:
# beyond half, calls begin to wait for one another.
_LOOP_SHARE = 0.5
_HASH_SHARE = 0.7
_DATABASE_SHARE = 0.5
# A rollout and a lost node each take one away.
_FEWEST_REPLICAS = 3
_MOST_CACHED = 500_000
_FEWEST_DATABASE_CORES = 2
# Days have nights: the mean load of a day by the peak.
_MEAN_BY_PEAK = 1 / 3
_MEBIBYTE = 1 << 20
_SECONDS_A_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Cost:
    """The mean cost of a call: CPU in microseconds, and bytes."""

    service_us: float
    database_us: float
    wal_bytes: float
    stored_bytes: float


@dataclass(frozen=True, slots=True)
class Costs:
    """The measured costs.

    Attributes:
        calls: The cost of each kind of call.
        hash_us: The CPU time of a password hash with the default settings, which is a part of the
            cost of a login and a registration.
        memory_mb: The memory of a replica under load, without what it caches.
        measured: A sentence that says where and when they were measured.
    """

    calls: Mapping[str, Cost]
    hash_us: float
    memory_mb: float
    measured: str

    def scaled(self, factor: float) -> "Costs":
        """Return the costs of a machine that takes `factor` times as long."""
        return Costs(
            {
                name: Cost(
                    cost.service_us * factor,
                    cost.database_us * factor,
                    cost.wal_bytes,
                    cost.stored_bytes,
                )
                for name, cost in self.calls.items()
            },
            self.hash_us * factor,
            self.memory_mb,
            self.measured,
        )


@dataclass(frozen=True, slots=True)
class Size:
    """What a load needs.

    Attributes:
        replicas: Replicas; one of them may be missing.
        cpu_request: Processors to reserve for a replica.
        cpu_limit: Processors that a replica may use, from which follow its hashing threads.
        memory_request_mib: Memory to reserve for a replica.
        memory_limit_mib: Memory that a replica may use.
        hash_threads: Threads of a replica that hash passwords.
        sessions_cached: Sessions for which a replica's cache has to have room.
        service_cores: Processors that all replicas together keep busy.
        database_cores: Processors for PostgreSQL.
        database_connections: Connections that PostgreSQL has to allow, in a rollout, too.
        wal_mb_per_second: The write-ahead log at peak, in megabytes: what a standby has to receive.
        stored_gb_per_day: What the database grows by, before retention removes as much.
    """

    replicas: int
    cpu_request: float
    cpu_limit: int
    memory_request_mib: int
    memory_limit_mib: int
    hash_threads: int
    sessions_cached: int
    service_cores: float
    database_cores: int
    database_connections: int
    wal_mb_per_second: float
    stored_gb_per_day: float


def read_costs() -> Costs:
    """Return the costs that come with this version."""
    tables = tomllib.loads(COSTS.read_text())
    measured = tables.pop("measured")
    return Costs(
        {name: Cost(**table) for name, table in tables.items()},
        measured["hash_us"],
        measured["memory_in_use_mb"],
        f"measured on {measured['date']} with Python {measured['python']}"
        f" on one {measured['processor']}",
    )


def size(rates: Mapping[str, float], sessions: int, costs: Costs) -> Size:
    """Return what a load needs.

    Args:
        rates: Calls a second at peak by their kind; the kinds are those of `costs`.
        sessions: The sessions in use at the same time.
        costs: What a call costs.
    """

    def total(figure: str) -> float:
        return sum(rate * float(getattr(costs.calls[kind], figure)) for kind, rate in rates.items())

    hashes = sum(rates.get(kind, 0) for kind in ("login", "registration"))
    hashing = hashes * costs.hash_us / 1e6
    looping = max(0.0, total("service_us") / 1e6 - hashing)
    replicas = max(_FEWEST_REPLICAS, math.ceil(looping / _LOOP_SHARE) + 1)
    carrying = replicas - 1
    threads = max(1, math.ceil(hashing / _HASH_SHARE / carrying))
    passwords = PasswordSettings()
    # Verifiers that don't call need no cache here.
    is_asked = any(rates.get(kind) for kind in ("validation", "session_validation"))
    cached = min(sessions, _MOST_CACHED) if is_asked else 0
    memory = (
        costs.memory_mb * 1e6
        + threads * passwords.argon2_memory_kib * 1024
        + cached * footprint.SESSION
    ) / _MEBIBYTE
    connections = DatabaseSettings.model_fields["pool_max"].default + OUTSIDE_POOL
    return Size(
        replicas=replicas,
        cpu_request=max(0.1, math.ceil((looping + hashing) / carrying * 10) / 10),
        cpu_limit=threads + 1,
        memory_request_mib=_rounded(memory),
        memory_limit_mib=_rounded(memory + passwords.hash_memory_mib),
        hash_threads=threads,
        sessions_cached=cached,
        service_cores=looping + hashing,
        database_cores=max(
            _FEWEST_DATABASE_CORES, math.ceil(total("database_us") / 1e6 / _DATABASE_SHARE)
        ),
        database_connections=(replicas + 1) * connections,
        wal_mb_per_second=total("wal_bytes") / 1e6,
        stored_gb_per_day=total("stored_bytes") * _SECONDS_A_DAY * _MEAN_BY_PEAK / 1e9,
    )


def _rounded(mebibytes: float) -> int:
    return math.ceil(mebibytes / 32) * 32
