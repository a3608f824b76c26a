"""Owns `authsvc passwords`: measures what hashing passwords costs on this machine."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

import typer
from argon2 import Parameters
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from authsvc.cli.groups import Commands
from authsvc.cli.output import JsonOption, fail
from authsvc.config import PasswordSettings
from authsvc.config.types import Duration
from authsvc.core.passwords import calibration
from authsvc.core.passwords.argon2id import Library
from authsvc.core.passwords.calibration import FLOOR, Load
from authsvc.core.passwords.processors import spare_processors

_DEFAULTS = PasswordSettings()
_HASHES = 5
# At most: the floor, three better guesses, the proposal alone, and the full pool.
_STEPS = 6
_SHORTEST, _LONGEST = timedelta(milliseconds=1), timedelta(seconds=10)
_KIB_PER_MIB = 1024

app = Commands(help="Measure what hashing passwords costs here.")


@app.callback()
def _group() -> None:
    """Measure what hashing passwords costs here."""


def _seconds(duration: str) -> float:
    try:
        parsed: timedelta = TypeAdapter(Duration).validate_python(duration)
    except ValidationError:
        fail(f'--target: "{duration}" is not a duration such as "50ms" or "1s"')
    if not _SHORTEST <= parsed <= _LONGEST:
        fail("--target: expected 1ms to 10s")
    return parsed.total_seconds()


@app.command()
def calibrate(
    target: Annotated[
        str, typer.Option(metavar="DURATION", help="The CPU time that a hash should take.")
    ] = "50ms",
    memory_limit: Annotated[
        int,
        typer.Option(
            min=_DEFAULTS.hash_memory_mib,
            metavar="MIB",
            help="The memory that all hashes in progress may take, in MiB.",
        ),
    ] = _DEFAULTS.hash_memory_mib,
    threads: Annotated[
        int, typer.Option(min=0, max=256, help="Threads that hash; 0 means as many as by default.")
    ] = _DEFAULTS.hash_workers,
    as_json: JsonOption = False,
) -> None:
    """Propose settings whose hash takes a wanted time on this machine; change nothing.

    The proposal is never weaker than the defaults. Run this where the service runs, while that is
    idle.
    """
    wanted = _seconds(target)
    threads = threads or spare_processors()
    seconds = {name: calibration.cpu_seconds(FLOOR, name, _HASHES) for name in Library}
    library = min(seconds, key=lambda name: seconds[name])
    columns = (TextColumn("{task.description}"), BarColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=_STEPS)

        def measure(cost: Parameters) -> float:
            progress.update(task, advance=1, description=f"Measuring {_described(cost)} …")
            return calibration.cpu_seconds(cost, library, _HASHES)

        cost = calibration.propose(
            measure,
            target=wanted,
            memory_kib=memory_limit * _KIB_PER_MIB // threads,
        )
        alone = measure(cost)
        progress.update(task, completed=_STEPS, description=f"Measuring {threads} at a time …")
        load = calibration.under_load(cost, library, threads, _HASHES)
    settings = {
        "argon2_memory_kib": cost.memory_cost,
        "argon2_time_cost": cost.time_cost,
        "argon2_parallelism": cost.parallelism,
        "hash_memory_mib": max(memory_limit, _full_pool_mib(cost, threads)),
    }
    if as_json:
        measured = {
            "library": library.value,
            "cpu_ms": round(alone * 1000, 1),
            "threads": load.threads,
            "hashes_per_second": round(load.rate, 1),
            "hashes_per_second_per_thread": round(load.rate / threads, 1),
            "cpu_ms_under_load": round(load.cpu_seconds * 1000, 1),
            "full_pool_mib": _full_pool_mib(cost, threads),
        }
        print(json.dumps({"passwords": settings, "measured": measured}, indent=2))
        return
    _print(cost, library, seconds, alone, load)
    if cost == FLOOR and alone > wanted:
        print(f"That is more than {target}, but nothing weaker is safe.")
    print("\n[passwords]")
    for name, value in settings.items():
        print(f"{name} = {value}")


def _print(
    cost: Parameters, library: Library, seconds: Mapping[Library, float], alone: float, load: Load
) -> None:
    print(
        "A hash at the default cost takes "
        + " and ".join(f"{took * 1000:.1f} ms by {name}" for name, took in seconds.items())
        + f": {library} is used."
    )
    print(f"Proposed: {_described(cost)}.")
    print(f"One hash alone: {alone * 1000:.1f} ms of CPU.")
    print(
        f"{load.threads} at a time: {load.rate:.1f} hashes/s"
        f" ({load.rate / load.threads:.1f} a thread),"
        f" {load.cpu_seconds * 1000:.1f} ms of CPU each,"
        f" {_full_pool_mib(cost, load.threads)} MiB in all."
    )


def _full_pool_mib(cost: Parameters, threads: int) -> int:
    return -(-cost.memory_cost * threads // _KIB_PER_MIB)


def _described(cost: Parameters) -> str:
    return f"{cost.memory_cost / _KIB_PER_MIB:.0f} MiB, {cost.time_cost} passes"
