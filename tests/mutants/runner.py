"""Owns the trying of mutants: a few processes at a time, each forked for one mutant.

What takes long is paid once: the interpreter and every package that is never mutated are loaded
before the fork, and the databases' servers run on. A mutant's tests come those first that are most
likely to notice soon, and end at the first that does. A test that notices is tried without the
mutant once, so that one that fails in any case kills nothing.
"""

import contextlib
import gc
import importlib
import importlib.util
import os
import select
import signal
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.mutants import child, servers
from tests.mutants.child import Order
from tests.mutants.coverage_map import CoverageMap, Test
from tests.mutants.mutant import Mutant
from tests.mutants.names import Names
from tests.mutants.project import Project
from tests.mutants.verdicts import Outcome, Verdict, Verdicts

# Seconds for what is no test, and the multiple of what a test took when it was measured.
_START_PATIENCE = 60.0
_TEST_FACTOR = 8.0
# So many seconds of tests are tried in a first process: most mutants live no longer, and a process
# for few tests starts sooner.
_FIRST_SECONDS = 3.0
_FIRST_FILES = 8
_QUICK = 8
_POLL = 0.2


@dataclass
class _Ran:
    """How a child fared."""

    began: list[str] = field(default_factory=list)
    failed: str = ""
    text: str = ""
    ended: bool = False
    timed_out: bool = False


_Judging = Generator[tuple[Mutant | None, Sequence[str]], _Ran, Verdict]


@dataclass
class _Child:
    """A process that is at work."""

    slot: int
    pid: int
    mutant: Mutant
    judging: _Judging
    began: float
    ran: _Ran
    deadline: float
    unread: bytes = b""


class Runner:
    """Tries mutants with `jobs` processes; `budget` bounds the seconds of tests for each."""

    def __init__(
        self,
        project: Project,
        coverage: CoverageMap,
        verdicts: Verdicts,
        databases: Sequence[str],
        *,
        jobs: int,
        budget: float,
    ) -> None:
        self._project = project
        self._coverage = coverage
        self._verdicts = verdicts
        self._databases = databases
        self._jobs = jobs
        self._budget = budget
        self._children: dict[int, _Child] = {}
        self._dirty: set[int] = set()
        # Tests that passed without a mutant, and tests that didn't.
        self._sound: set[str] = set()
        self.unsound: set[str] = set()
        self._killers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)

    def run(self, mutants: Sequence[Mutant], tell: Callable[[Mutant, Verdict], None]) -> None:
        """Try mutants and tell of each verdict as it is found."""
        _preload(self._project, self._coverage.modules, mutants)
        waiting = list(reversed(mutants))
        free = list(range(self._jobs))
        try:
            while waiting or self._children:
                while waiting and free:
                    mutant = waiting.pop()
                    judging = self._judge(mutant)
                    self._advance(free.pop(), mutant, judging, time.monotonic(), None, tell, free)
                for descriptor in self._readable():
                    ended = self._children.pop(descriptor)
                    os.close(descriptor)
                    self._reap(ended)
                    self._advance(
                        ended.slot, ended.mutant, ended.judging, ended.began, ended.ran, tell, free
                    )
        finally:
            for descriptor, left in self._children.items():
                os.close(descriptor)
                self._reap(left)
            self._children.clear()

    def _advance(
        self,
        slot: int,
        mutant: Mutant,
        judging: _Judging,
        began: float,
        ran: _Ran | None,
        tell: Callable[[Mutant, Verdict], None],
        free: list[int],
    ) -> None:
        """Give a judgement what it waited for, and start what it asks for or note its end."""
        try:
            changed, tests = next(judging) if ran is None else judging.send(ran)
        except StopIteration as stop:
            verdict: Verdict = stop.value
            seconds = round(time.monotonic() - began, 1)
            verdict = Verdict(**(vars(verdict) | {"seconds": seconds}))
            self._verdicts.add(mutant, verdict)
            free.append(slot)
            tell(mutant, verdict)
            return
        descriptor, pid = self._fork(self._order(slot, changed, tests))
        deadline = time.monotonic() + _START_PATIENCE
        self._children[descriptor] = _Child(slot, pid, mutant, judging, began, _Ran(), deadline)

    def _judge(self, mutant: Mutant) -> _Judging:
        """Yield what is to be run, receive how it went, return the verdict."""
        tests = self._tests(mutant)
        tried: list[str] = []
        for part in self._parts(tests):
            names = [test.name for test in part]
            while names:
                ran = yield mutant, names
                noticed = ran.failed or ran.timed_out or not ran.ended
                if not noticed:
                    break
                killer = ran.failed if ran.failed not in {"", "import"} else ""
                killer = killer or (ran.began[-1] if ran.began else names[0])
                # The control runs the same tests, as one may fail because of those before it.
                until = names[: names.index(killer) + 1] if killer in names else names
                if killer not in self._sound:
                    control = yield None, until
                    if control.failed or control.timed_out or not control.ended:
                        self.unsound.add(killer)
                        names = [name for name in names if name != killer]
                        continue
                    self._sound.add(killer)
                return self._noticed(mutant, ran, killer, len(tried) + len(until))
            tried += names
        outcome = Outcome.SURVIVED if tried else Outcome.UNREACHED
        files = [name.partition("::")[0] for name in tried]
        return Verdict(
            outcome,
            tests=len(tried),
            rests_on=self._verdicts.resting_on([mutant.path, *files]),
            reached_by=self._coverage.digest(mutant.reach),
        )

    def _noticed(self, mutant: Mutant, ran: _Ran, killer: str, tests: int) -> Verdict:
        outcome = Outcome.TIMEOUT if ran.timed_out else Outcome.KILLED
        if mutant.is_sql and child.is_not_sql(ran.text):
            outcome = Outcome.INVALID
        self._killers[mutant.path, mutant.key.function][killer] += 1
        self._killers[mutant.path, ""][killer] += 1
        rests_on = self._verdicts.resting_on([mutant.path, killer])
        return Verdict(outcome, killer, ran.text, tests=tests, rests_on=rests_on)

    def _tests(self, mutant: Mutant) -> list[Test]:
        """Return a mutant's tests within the budget.

        Those come first that killed its like; then a few that are quick; then those of the files
        named after what is changed, which are meant to notice.
        """
        found = {
            test.name: test
            for test in self._coverage.covering(mutant.reach)
            if test.name not in self.unsound
        }
        proved = [
            *(name for name, _ in self._killers[mutant.path, mutant.key.function].most_common(4)),
            *(name for name, _ in self._killers[mutant.path, ""].most_common(2)),
        ]
        proved = [name for name in proved if name in found]
        quick = list(found)[:_QUICK]
        named = tuple(_tests_of(path) for path in mutant.reach)
        meant = [name for name in found if name.startswith(named)]
        # What a class holds is used by functions, but may be tested without them.
        own = _tests_of(mutant.path)
        found |= {
            name: test
            for name, test in self._coverage.tests.items()
            if name.startswith(own) and test.passed and name not in self.unsound
        }
        chosen, seconds = [], 0.0
        for name in dict.fromkeys([*proved, *quick, *meant, *found]):
            if seconds > self._budget:
                break
            chosen.append(found[name])
            seconds += found[name].seconds
        return chosen

    @staticmethod
    def _parts(tests: Sequence[Test]) -> list[Sequence[Test]]:
        """Part tests into those of the first process and the others."""
        seconds, files = 0.0, set()
        for place, test in enumerate(tests):
            seconds += test.seconds
            files.add(test.file)
            if place and (seconds > _FIRST_SECONDS or len(files) > _FIRST_FILES):
                return [tests[:place], tests[place:]]
        return [tests] if tests else []

    def _order(self, slot: int, mutant: Mutant | None, tests: Sequence[str]) -> Order:
        order: dict[str, Any] = {
            "root": self._project.root,
            "tests": tests,
            "folder": self._project.state / f"slot{slot}",
            "database": self._databases[slot] if self._databases else "",
            "dirty": slot in self._dirty,
            "template": servers.TEMPLATE if self._databases else "",
        }
        self._dirty.discard(slot)
        if mutant is not None:
            order |= {"path": mutant.path, "source": mutant.source}
            if mutant.path.endswith(".sql"):
                order |= {"migration": Path(mutant.path).name, "template": ""}
                order["migrator"] = self._project.migrator
            else:
                parts = Path(mutant.path).with_suffix("").parts
                order["module"] = ".".join(parts).removesuffix(".__init__")
        return Order(**order)

    def _fork(self, order: Order) -> tuple[int, int]:
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            for other in self._children:
                os.close(other)
            child.run(order, writing)
        os.close(writing)
        return reading, pid

    def _readable(self) -> list[int]:
        """Wait a moment and take in what children say; return those that are done or too late."""
        ready, _, _ = select.select(list(self._children), [], [], _POLL)
        done = []
        for descriptor, running in self._children.items():
            if descriptor in ready:
                said = os.read(descriptor, 1 << 16)
                if not said:
                    done.append(descriptor)
                    continue
                self._hear(running, said)
            if time.monotonic() > running.deadline:
                running.ran.timed_out = True
                done.append(descriptor)
        return done

    def _hear(self, running: _Child, said: bytes) -> None:
        *lines, running.unread = (running.unread + said).split(b"\n")
        for line in lines:
            ran, patience = running.ran, _START_PATIENCE
            match child.read(line):
                case {"began": str(name)}:
                    ran.began.append(name)
                    test = self._coverage.tests.get(name)
                    patience = self._project.patience + _TEST_FACTOR * (
                        test.seconds if test else 0.0
                    )
                case {"failed": str(name), "text": str(text)} if not ran.failed:
                    ran.failed, ran.text = name, text
                case {"ended": 0}:
                    ran.ended = True
            running.deadline = time.monotonic() + patience

    def _reap(self, ended: _Child) -> None:
        """End a child with all that it started."""
        if not ended.ran.ended:
            self._dirty.add(ended.slot)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(ended.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(ended.pid, signal.SIGKILL)
        os.waitpid(ended.pid, 0)


def _tests_of(path: str) -> str:
    """Return how the names of a module's own tests begin."""
    module = Path(path)
    return str(Path("tests", *module.parent.parts[1:], f"test_{module.stem}"))


def _preload(project: Project, modules: set[str], mutants: Sequence[Mutant]) -> None:
    """Import what the tests import, but nothing that may be mutated or that imports such."""
    own = {project.package, *(Path(test).parts[0] for test in project.tests)}
    changing = {mutant.path for mutant in mutants if mutant.path.endswith(".py")}
    unchanging = Names(project.root, project.package).independent_of(changing)
    for name in sorted(modules):
        # Test helpers outside of the package may hold on to what is mutated.
        if (name.partition(".")[0] in own and name not in unchanging) or not _is_found(name):
            continue
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _is_found(name: str) -> bool:
    if name in sys.modules:
        return False
    with contextlib.suppress(Exception):
        return importlib.util.find_spec(name) is not None
    return False
