"""Owns what is mutated and what judges it: the one place to change when the tree moves."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Project:
    """A tree of code and tests; all paths are relative to `root`.

    `targets` are files, or folders whose files are all meant. `sql` lists the mutants of SQL and
    `explained` the survivors that are accepted; without `database` the tests need no PostgreSQL.
    """

    root: Path
    package: str
    targets: tuple[str, ...]
    tests: tuple[str, ...]
    explained: str
    sql: str = ""
    migrator: str = ""
    database: bool = False
    # Seconds that a test may take beside a multiple of what it took when it was measured.
    patience: float = 12.0

    @property
    def state(self) -> Path:
        """Where measurements and verdicts are kept from one run to the next."""
        return self.root / ".mutants"

    def files(self) -> list[str]:
        """Return the files of the targets."""
        found = []
        for target in self.targets:
            path = self.root / target
            files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
            found += [str(file.relative_to(self.root)) for file in files]
        return found


PROJECT = Project(
    root=ROOT,
    package="authsvc",
    targets=(
        "authsvc/core/attempts",
        "authsvc/core/sessions",
        "authsvc/core/signing",
        "authsvc/core/limits",
    ),
    # Tests of the whole service run the same code, but take a hundred times as long.
    tests=(
        "tests/core",
        "tests/store",
        "tests/security/test_bound_tokens.py",
        "tests/security/test_jwt.py",
        "tests/security/test_jwt_claims.py",
        "tests/security/test_jwt_form.py",
    ),
    sql="tests/mutants/sql.toml",
    explained="tests/mutants/explained.toml",
    migrator="authsvc.store.postgres.migrator",
    database=True,
)
