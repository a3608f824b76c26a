"""Owns what is printed: progress, the share killed in each module, the survivors."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.mutants.explained import stub
from tests.mutants.mutant import Key, Mutant
from tests.mutants.verdicts import Outcome, Verdict

# Where no terminal shows a line that changes, a line is printed this often.
_EVERY = 30.0


class Progress:
    """A line that says how far it is, and when it will be over."""

    def __init__(self, console: Console, total: int, explained: Mapping[Key, str]) -> None:
        self._console = console
        self._total = total
        self._explained = explained
        self._counts: Counter[str] = Counter()
        self._begin = time.monotonic()
        self._told = 0.0

    def note(self, mutant: Mutant, verdict: Verdict) -> None:
        """Count a verdict, and show the count now and then."""
        self._counts[kind(mutant, verdict, self._explained)] += 1
        done = sum(self._counts.values())
        now = time.monotonic()
        every = 0.0 if self._console.is_terminal else _EVERY
        if now - self._told < every and done < self._total:
            return
        self._told = now
        left = (now - self._begin) / done * (self._total - done)
        counts = " · ".join(f"{count} {name}" for name, count in self._counts.most_common())
        bar = ("█" * round(24 * done / self._total)).ljust(24, "░")
        line = f"{bar} {done}/{self._total} · {counts} · {_clock(left)} left"
        if self._console.is_terminal:
            self._console.file.write(f"\r\x1b[2K{line[: self._console.width - 1]}")
            self._console.file.write("\n" if done == self._total else "")
            self._console.file.flush()
        else:
            self._console.print(line, highlight=False)


def kind(mutant: Mutant, verdict: Verdict, explained: Mapping[Key, str]) -> str:
    """Return how a mutant is counted."""
    if verdict.outcome.is_dead:
        return "killed"
    if verdict.outcome is Outcome.INVALID:
        return "invalid"
    return "explained" if mutant.key in explained else "survived"


def print_table(
    console: Console, found: Sequence[tuple[Mutant, Verdict]], explained: Mapping[Key, str]
) -> None:
    """Print the share killed in each module."""
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for mutant, verdict in found:
        name = f"{mutant.key.module}{' (SQL)' if mutant.is_sql else ''}"
        rows[name][kind(mutant, verdict, explained)] += 1
        rows["all"][kind(mutant, verdict, explained)] += 1
    table = Table(title="mutants", title_justify="left")
    for column in ("module", "mutants", "killed", "share", "explained", "survived"):
        table.add_column(column, justify="left" if column == "module" else "right")
    rows["all"] = rows.pop("all", Counter())
    for name, counts in rows.items():
        total = sum(counts.values())
        share = f"{counts['killed'] / total:.1%}" if total else ""
        numbers = (total, counts["killed"], share, counts["explained"], counts["survived"])
        table.add_row(name, *map(str, numbers), style="bold" if name == "all" else None)
    console.print(table)


def print_mutant(console: Console, mutant: Mutant) -> None:
    """Print what a mutant changes."""
    key = mutant.key
    console.print(f"[bold]{mutant.id}[/] {escape(mutant.place)} · {key.operator}", highlight=False)
    console.print(f"  [red]- {escape(key.before)}[/]", highlight=False)
    console.print(f"  [green]+ {escape(key.after)}[/]", highlight=False)


def print_survivors(
    console: Console,
    found: Iterable[tuple[Mutant, Verdict]],
    explained: Mapping[Key, str],
    *,
    stubs: bool,
) -> int:
    """Print what survived and is not explained, and what is no valid mutant; return how many."""
    count = 0
    for mutant, verdict in found:
        if kind(mutant, verdict, explained) not in {"survived", "invalid"}:
            continue
        count += 1
        if stubs:
            console.print(f"\n{stub(mutant.key)}", markup=False, highlight=False, soft_wrap=True)
            continue
        print_mutant(console, mutant)
        if verdict.outcome is Outcome.INVALID:
            console.print("  the database does not understand it:", verdict.detail[-120:])
        elif verdict.outcome is Outcome.UNREACHED:
            console.print("  no test runs it")
        else:
            console.print(f"  {verdict.tests} tests passed")
    return count


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
