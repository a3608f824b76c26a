"""Owns the verdicts on mutants, kept for the next run while what they rest on is the same."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from tests.mutants.coverage_map import CoverageMap, digest_of, digest_of_test
from tests.mutants.mutant import Mutant


class Outcome(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    TIMEOUT = "timeout"
    SURVIVED = "survived"
    UNREACHED = "unreached"
    # Not even a statement that the database understands.
    INVALID = "invalid"

    @property
    def is_dead(self) -> bool:
        """Whether the tests noticed."""
        return self in {Outcome.KILLED, Outcome.TIMEOUT}


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant, which test noticed or how many didn't, and what it rests on."""

    outcome: Outcome
    killer: str = ""
    detail: str = ""
    seconds: float = 0.0
    tests: int = 0
    # Digests of files and tests, by path and name, and of which tests there were if none noticed.
    rests_on: Mapping[str, str] = field(default_factory=dict)
    reached_by: str = ""


class Verdicts:
    """Verdicts in a file to which each is added as it is found."""

    def __init__(self, root: Path, path: Path) -> None:
        self._root = root
        self._path = path
        self._known: dict[str, Verdict] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                name, outcome = entry.pop("id"), Outcome(entry.pop("outcome"))
                self._known[name] = Verdict(outcome, **entry)

    def find(self, mutant: Mutant, coverage: CoverageMap) -> Verdict | None:
        """Return the verdict on a mutant if nothing that it rests on has changed."""
        verdict = self._known.get(mutant.id)
        if verdict is None:
            return None
        same = all(self._digest(name) == digest for name, digest in verdict.rests_on.items())
        if not verdict.outcome.is_dead:
            same = same and verdict.reached_by == coverage.digest(mutant.reach)
        return verdict if same else None

    def last(self, mutant: Mutant) -> Verdict | None:
        """Return the newest verdict on a mutant, even of code that has changed since."""
        return self._known.get(mutant.id)

    def add(self, mutant: Mutant, verdict: Verdict) -> None:
        """Keep a verdict."""
        self._known[mutant.id] = verdict
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps({"id": mutant.id} | asdict(verdict)) + "\n")

    def resting_on(self, names: Sequence[str]) -> dict[str, str]:
        """Return the digests of files, named by path, and of tests."""
        return {name: self._digest(name) for name in dict.fromkeys(names)}

    def _digest(self, name: str) -> str:
        if "::" in name:
            return digest_of_test(self._root, name)
        return digest_of(self._root / name)
