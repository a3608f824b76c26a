"""Owns `authsvc size`: says how many replicas, processors and how much memory a load needs."""

import re
from dataclasses import asdict
from typing import Annotated

import typer

from authsvc.cli import sizing
from authsvc.cli.output import JsonOption, emit_one, fail, to_json
from authsvc.config import TokenSettings
from authsvc.core.passwords import calibration
from authsvc.core.passwords.argon2id import Library
from authsvc.core.passwords.calibration import FLOOR

_RATE = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[kM]?)(?:/(?P<per>s|min|h|day))?", re.ASCII)
_TIMES = {"": 1, "k": 1_000, "M": 1_000_000}
_SECONDS = {"s": 1, "min": 60, "h": 3_600, "day": 86_400}
_MOST = 1e9
_HASHES = 5


def _rate(text: str, option: str) -> float:
    """Return the calls a second that an option says, or end the command."""
    found = _RATE.fullmatch(text)
    if found is None:
        fail(f'{option}: "{text}" is not a rate such as "50/s", "5k/min" or "2M/day"')
    rate = float(found["number"]) * _TIMES[found["unit"]] / _SECONDS[found["per"] or "s"]
    if rate > _MOST:
        fail(f"{option}: at most {_MOST:,.0f}/s")
    return rate


def _option(name: str, text: str) -> object:
    return typer.Option(f"--{name}", metavar="RATE", help=text)


def size(  # noqa: PLR0917 - options
    logins: Annotated[str, _option("logins", "Logins with a password, at peak.")] = "1/s",
    validations: Annotated[
        str, _option("validations", "Calls of ValidateToken. A service with a guard makes none.")
    ] = "0/s",
    session_validations: Annotated[
        str, _option("session-validations", "Calls of ValidateSession.")
    ] = "0/s",
    checks: Annotated[str, _option("checks", "Calls of CheckRateLimit.")] = "0/s",
    batched_checks: Annotated[
        str, _option("batched-checks", "Checks in calls of BatchCheckRateLimits.")
    ] = "0/s",
    registrations: Annotated[str, _option("registrations", "New accounts.")] = "0/s",
    sessions: Annotated[
        int,
        typer.Option(
            min=0,
            max=1_000_000_000,
            metavar="NUMBER",
            help="Sessions in use at a time: each refreshes its tokens before they expire.",
        ),
    ] = 1_000,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Compare this machine with the measured one by how fast it hashes.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a load needs: replicas, processors, memory, and what PostgreSQL needs.

    Rates are those at peak: "50/s", "5k/min", "2M/day". One replica may be missing then, and half
    of each processor is left free. The costs of calls were measured; your processors may differ.
    """
    lifetime = TokenSettings().access_lifetime.total_seconds()
    rates = {
        "login": _rate(logins, "--logins"),
        "validation": _rate(validations, "--validations"),
        "session_validation": _rate(session_validations, "--session-validations"),
        "check": _rate(checks, "--checks"),
        "batched_check": _rate(batched_checks, "--batched-checks"),
        "registration": _rate(registrations, "--registrations"),
        "refresh": sessions / lifetime,
    }
    costs = sizing.read_costs()
    factor = 1.0
    if calibrate:
        took = min(calibration.cpu_seconds(FLOOR, each, _HASHES) for each in Library)
        factor = took * 1e6 / costs.hash_us
    found = sizing.size(rates, sessions, costs.scaled(factor))
    figures = asdict(found)
    if as_json:
        print(to_json({"rates": rates, "size": figures, "this_machine": factor}, indent=2))
        return
    emit_one(
        {
            "replicas": f"{found.replicas}, of which one may be missing",
            "cpu": f"{found.cpu_request:.1f} requested, {found.cpu_limit} at most, for each",
            "memory": f"{found.memory_request_mib} MiB requested,"
            f" {found.memory_limit_mib} MiB at most, for each",
            "hashing": f"{found.hash_threads} of the processors of each"
            f" (passwords.hash_workers, by itself)",
            "session cache": f"sessions.cache_size = {found.sessions_cached or 'as it is'}",
            "kept busy": f"{found.service_cores:.2f} processors in all",
            "postgresql": f"{found.database_cores} processors,"
            f" max_connections {found.database_connections} or more",
            "replication": f"{found.wal_mb_per_second:.2f} MB/s of write-ahead log at peak",
            "growth": f"{found.stored_gb_per_day:.2f} GB a day, until retention removes as much",
        },
        as_json=False,
    )
    speed = f"; this machine takes {factor:.2f} times as long" if calibrate else ""
    print(f"\nCosts were {costs.measured}{speed}.")
