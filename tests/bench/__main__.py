"""Owns `make bench`: measures the service beside a bare echo in one run and prints the table.

Everything runs on loopback, is bounded in time, and ends by itself. CPU per call is that of the
service process, as accounted by the system; it excludes PostgreSQL and the load generator.
"""

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from tests.bench.processes import targets
from tests.bench.rows import Bench, Row


def main() -> None:
    """Run the benchmark with the given effort."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one stretch of load")
    parser.add_argument("--rounds", type=int, default=3, help="stretches of each kind")
    parser.add_argument(
        "--minutes", type=float, default=1 / 3, help="length of the revocation bound's measurement"
    )
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, targets(Path(folder)) as (echo, service, start):
        bench = Bench(
            echo=echo,
            service=service,
            folder=Path(folder),
            seconds=options.seconds,
            rounds=options.rounds,
            only=options.only,
            bound_seconds=60 * options.minutes,
        )
        rows = [
            Row("start to SERVING", f"{start:.2f} s", "≤ 2 s"),
            Row("memory at rest", f"{service.memory_mb():.0f} MB", "≤ 120 MB"),
        ]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            rows += runner.run(bench.run())
    if options.json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
        return
    table = Table(title="authsvc bench", title_justify="left")
    for name in ("work", "result", "budget", "calls/s", "CPU µs/call", "p50 ms", "p99 ms"):
        table.add_column(name, justify="left" if name == "work" else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


main()
