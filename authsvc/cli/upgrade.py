"""Owns `authsvc upgrade check`: says in advance what an upgrade does to the database."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from authsvc import __version__
from authsvc.cli.groups import Commands
from authsvc.cli.output import (
    ConfigOption,
    JsonOption,
    SecretsOption,
    emit,
    run,
    settings_of,
    to_json,
)
from authsvc.core.upgrades.estimates import Seconds
from authsvc.core.upgrades.plan import HeldUp, Step, UpgradePlan, Verdict, plan_upgrade
from authsvc.models.upgrades import Work
from authsvc.store.postgres.migrations import Kind, shipped_schema
from authsvc.store.postgres.migrator import connected
from authsvc.store.postgres.timeouts import Timeouts

app = Commands(help="See what an upgrade would do to the database.")

_EXIT_CODES = {
    Verdict.NOTHING_TO_DO: 0,
    Verdict.READY: 0,
    Verdict.REFUSED: 1,
    Verdict.WAIT: 3,
}
_SENTENCES = {
    Verdict.NOTHING_TO_DO: "There is nothing to apply.",
    Verdict.READY: "`authsvc migrate` can run now, while replicas serve.",
    Verdict.WAIT: "`authsvc migrate` would have to wait, or fail; see below.",
    Verdict.REFUSED: "`authsvc migrate` is refused; see below.",
}
_HOW = {
    Kind.TRANSACTION: "in one transaction",
    Kind.BUILD_INDEX: "beside calls",
    Kind.DROP_INDEX: "beside calls",
    Kind.REPEAT: "in small batches",
}


@app.callback()
def _group() -> None:
    """See what an upgrade would do to the database."""


@app.command()
def check(
    config: ConfigOption = None, secrets: SecretsOption = None, as_json: JsonOption = False
) -> None:
    """Say what `authsvc migrate` of this version would do to the database, and change nothing.

    For each statement of the pending migrations: which lock it takes, whom that keeps waiting, and
    for how long at the size of the table. The exit code is 0 if it can run now or there is nothing
    to do, 3 if something would hold it up, and 1 if it is refused or can't be checked.
    """
    database = settings_of(config, secrets).database
    url = (database.listener_url or database.url).get_secret_value()

    async def work() -> UpgradePlan | HeldUp:
        lock_seconds = database.lock_timeout.total_seconds() / 2
        async with connected(url, Timeouts.of(database)) as connection:
            try:
                return await plan_upgrade(connection, shipped_schema(), __version__, lock_seconds)
            except HeldUp as held_up:
                return held_up

    plan = run(work)
    if isinstance(plan, HeldUp):
        _held_up(plan, as_json=as_json)
        raise typer.Exit(_EXIT_CODES[Verdict.WAIT])
    if as_json:
        print(to_json(_document(plan), indent=2))
    else:
        _print(plan)
    raise typer.Exit(_EXIT_CODES[plan.verdict])


def _held_up(held_up: HeldUp, *, as_json: bool) -> None:
    if as_json:
        document = {"verdict": Verdict.WAIT, "code": _code(), "problems": held_up.problems}
        print(to_json(document, indent=2))
        return
    print(_SENTENCES[Verdict.WAIT])
    _print_problems(held_up.problems)


def _print_problems(problems: Sequence[str]) -> None:
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)


def _print(plan: UpgradePlan) -> None:
    schema = shipped_schema()
    has = " or ".join(plan.releases) or "no release"
    print(
        f"This is authsvc {__version__} with {schema.version} migrations; the database has "
        f"{plan.applied}, the schema of {has}."
    )
    print(_SENTENCES[plan.verdict])
    _print_problems(plan.problems)
    for note in plan.notes:
        print(f"note: {note}")
    if plan.steps:
        emit([_row(step) for step in plan.steps], as_json=False, title="Statements")
    elif plan.pending:
        print(f"{len(plan.pending)} migrations create a new schema.")
    if plan.connections:
        rows = [
            {
                "application": each.application,
                "connections": each.count,
                "addresses": each.addresses,
            }
            for each in plan.connections
        ]
        emit(rows, as_json=False, title="Connected")
    if plan.disk_needed:
        free = "unknown" if plan.disk_free is None else _bytes(plan.disk_free)
        print(f"Disk: about {_bytes(plan.disk_needed)} and as much log; free: {free}.")
    print(f"The way back: {plan.way_back}")


def _row(step: Step) -> Mapping[str, Any]:
    is_new = not step.table
    return {
        "migration": f"{step.migration:04}",
        "runs": _HOW[step.kind],
        "statement": step.statement,
        "table": step.table or "only new ones",
        "rows": None if is_new else step.size.rows,
        "lock": None if is_new else step.effect.lock,
        "keeps_waiting": "nobody" if is_new else step.blocks,
        "work": None if step.effect.work is Work.NONE else step.effect.work,
        "lock_held": None if is_new else _range(step.held),
    }


def _code() -> Mapping[str, Any]:
    return {"version": __version__, "migrations": shipped_schema().version}


def _document(plan: UpgradePlan) -> Mapping[str, Any]:
    return {
        "verdict": plan.verdict.replace(" ", "_"),
        "code": _code(),
        "database": {"migrations": plan.applied, "releases": plan.releases},
        "problems": plan.problems,
        "notes": plan.notes,
        "pending": [
            {
                "migration": migration.version,
                "name": migration.name,
                "runs": migration.kind.value.replace(" ", "_"),
                "statements": [
                    {
                        "statement": step.statement,
                        "table": step.table,
                        "lock": step.effect.lock,
                        "keeps_waiting": step.blocks,
                        "work": step.effect.work,
                        "rows": step.size.rows,
                        "bytes": step.size.bytes,
                        "seconds": [step.takes.least, step.takes.most],
                        "lock_held_seconds": [step.held.least, step.held.most],
                    }
                    for step in plan.steps
                    if step.migration == migration.version
                ],
            }
            for migration in plan.pending
        ],
        "connected": [
            {
                "application": each.application,
                "connections": each.count,
                "addresses": each.addresses,
            }
            for each in plan.connections
        ],
        "disk": {"needed_bytes": plan.disk_needed, "free_bytes": plan.disk_free},
        "way_back": plan.way_back,
    }


def _range(seconds: Seconds) -> str:
    return f"{_time(seconds.least)} to {_time(seconds.most)}"


def _time(seconds: float) -> str:
    for limit, divisor, unit in ((1, 0.001, "ms"), (120, 1, "s"), (7_200, 60, "min")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 3_600:.0f} h"


def _bytes(count: int) -> str:
    return f"{count / 1_000_000:,.0f} MB"
