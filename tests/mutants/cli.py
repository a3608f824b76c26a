"""Owns the command: chooses mutants, has them tried, prints what became of them."""

import argparse
import contextlib
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tests.mutants import servers
from tests.mutants.coverage_map import CoverageMap
from tests.mutants.explained import read_explained, unmatched
from tests.mutants.mutant import Mutant
from tests.mutants.names import Names
from tests.mutants.operators import python_mutants
from tests.mutants.project import Project
from tests.mutants.report import Progress, print_mutant, print_survivors, print_table
from tests.mutants.runner import Runner
from tests.mutants.sql import sql_mutants
from tests.mutants.verdicts import Outcome, Verdict, Verdicts


def main(project: Project, arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return 0 if every survivor is explained."""
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    every = all_mutants(project)
    mutants = _chosen(every, options)
    if options.show:
        for mutant in mutants:
            _show(console, mutant, Verdicts(project.root, _verdicts_path(project)))
        return 0 if mutants else 1
    if options.list:
        for mutant in mutants:
            print_mutant(console, mutant)
        console.print(f"{len(mutants)} mutants")
        return 0
    return _try(project, console, every, mutants, options)


def all_mutants(project: Project) -> list[Mutant]:
    """Return every mutant of a project."""
    names = Names(project.root, project.package)
    mutants = []
    for path in project.files():
        mutants += python_mutants(path, (project.root / path).read_text(), names)
    if project.sql:
        mutants += sql_mutants(project.root, project.sql, names)
    return mutants


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make mutants",
        description="Changes the code in one place at a time, and tells which changes no test "
        "notices. Pass options as MUTANTS_ARGS.",
    )
    parser.add_argument("--only", action="append", default=[], metavar="TEXT",
        help="mutants whose module, function or id contains this (may be repeated)")  # fmt: skip
    parser.add_argument("--sql", action="store_true", help="only the mutants of SQL")
    parser.add_argument("--python", action="store_true", help="only the mutants of Python code")
    parser.add_argument("--survivors", action="store_true",
        help="only those that survived when they were tried last")  # fmt: skip
    parser.add_argument("--sample", type=int, metavar="N", help="N of them, chosen at random")
    parser.add_argument("--seed", type=int, default=0, help="another random choice")
    parser.add_argument("--list", action="store_true", help="list them and try none")
    parser.add_argument("--show", metavar="ID", help="show one mutant and what became of it")
    parser.add_argument("--stubs", action="store_true",
        help="print survivors as entries for the list of explanations")  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="forget earlier verdicts")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--budget", type=float, default=30.0, metavar="SECONDS",
        help="of tests that are tried on one mutant (30)")  # fmt: skip
    parser.add_argument("--tests", action="append", metavar="PATH",
        help="judge by these tests only, a file or folder (may be repeated)")  # fmt: skip
    parser.add_argument("--keep-coverage", action="store_true",
        help="don't measure again which test runs what though the code was changed")  # fmt: skip
    return parser


def _chosen(mutants: Sequence[Mutant], options: argparse.Namespace) -> list[Mutant]:
    chosen = [
        mutant
        for mutant in mutants
        if not (options.sql and not mutant.is_sql)
        and not (options.python and mutant.is_sql)
        and (options.show in {None, mutant.id})
        and (not options.only or any(text in _label(mutant) for text in options.only))
    ]
    if options.sample is not None and options.sample < len(chosen):
        sample = random.Random(options.seed).sample(range(len(chosen)), options.sample)
        chosen = [chosen[place] for place in sorted(sample)]
    return chosen


def _label(mutant: Mutant) -> str:
    return f"{mutant.key.module}:{mutant.key.function}:{mutant.id}"


def _show(console: Console, mutant: Mutant, verdicts: Verdicts) -> None:
    print_mutant(console, mutant)
    verdict = verdicts.last(mutant)
    if verdict is not None:
        console.print(f"{verdict.outcome} in {verdict.seconds} s after {verdict.tests} tests")
        console.print(f"{verdict.killer}\n{verdict.detail}".strip(), markup=False)


def _verdicts_path(project: Project) -> Path:
    return project.state / "verdicts.jsonl"


def _try(
    project: Project,
    console: Console,
    every: Sequence[Mutant],
    mutants: Sequence[Mutant],
    options: argparse.Namespace,
) -> int:
    explained = read_explained(project.root / project.explained)
    if options.fresh:
        _verdicts_path(project).unlink(missing_ok=True)
    verdicts = Verdicts(project.root, _verdicts_path(project))
    if options.survivors:
        mutants = [mutant for mutant in mutants if _survived(verdicts.last(mutant))]
    coverage = CoverageMap(project)
    coverage.update(options.tests or project.tests, options.jobs, keep=options.keep_coverage)
    found = {}
    if not options.survivors:
        known = ((mutant, verdicts.find(mutant, coverage)) for mutant in mutants)
        found = {mutant: verdict for mutant, verdict in known if verdict is not None}
    left = [mutant for mutant in mutants if mutant not in found]
    # If the run is ended early, all modules have been tried alike, and what is less certain first.
    random.Random(options.seed).shuffle(left)
    left.sort(key=lambda mutant: _is_dead(verdicts.last(mutant)))
    console.print(f"{len(mutants)} mutants, {len(left)} of them to be tried")
    progress = Progress(console, len(left), explained)

    def tell(mutant: Mutant, verdict: Verdict) -> None:
        found[mutant] = verdict
        progress.note(mutant, verdict)

    unsound: set[str] = set()
    if left:
        with contextlib.ExitStack() as stack:
            databases = []
            if project.database:
                databases = stack.enter_context(servers.running(options.jobs))
            runner = Runner(
                project, coverage, verdicts, databases, jobs=options.jobs, budget=options.budget
            )
            with contextlib.suppress(KeyboardInterrupt):
                runner.run(left, tell)
            unsound = runner.unsound
    judged = [(mutant, found[mutant]) for mutant in mutants if mutant in found]
    print_table(console, judged, explained)
    for name in sorted(unsound):
        console.print(f"fails without any mutant, so it was not used: {name}", markup=False)
    stale = unmatched(explained, every)
    stale += [m.key for m, verdict in judged if verdict.outcome.is_dead and m.key in explained]
    for key in stale:
        console.print(f"stale explanation, it is killed or gone: {key}", markup=False)
    survivors = print_survivors(console, judged, explained, stubs=options.stubs)
    return 1 if survivors or len(judged) < len(mutants) else 0


def _is_dead(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.outcome.is_dead


def _survived(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.outcome in {Outcome.SURVIVED, Outcome.UNREACHED}
