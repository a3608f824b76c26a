"""`make audit`: looks up known vulnerabilities of the packages that the service is built from.

pip-audit queries a database of vulnerabilities. It counts packages that the database doesn't know
as a success, so an audit that looked nothing up would pass; here it fails and says so.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from deploy.release.errors import ReleaseError

LOCK = Path(__file__).parents[1] / "requirements.lock"


def main() -> int:
    """Print what pip-audit found; return the exit code."""
    try:
        problems, audited = findings(run_pip_audit())
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for problem in problems:
        print(problem)
    print(f"{audited} packages were looked up.")
    return 1 if problems else 0


def run_pip_audit() -> str:
    """Return the report of pip-audit as JSON.

    Raises:
        ReleaseError: It reached no database.
    """
    done = subprocess.run(  # noqa: S603 - the program of the environment
        [
            *(sys.executable, "-m", "pip_audit", "--requirement", LOCK),
            *("--no-deps", "--disable-pip", "--require-hashes"),
            *("--format", "json", "--progress-spinner", "off"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.stdout.startswith("{"):
        cause = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise ReleaseError(f"nothing was audited, no database could be asked: {cause}")
    return done.stdout


def findings(report: str) -> tuple[list[str], int]:
    """Return a line for each vulnerability or package not looked up, and how many were.

    Raises:
        ReleaseError: None was.
    """
    packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    skipped = [package for package in packages if "skip_reason" in package]
    if len(skipped) == len(packages):
        raise ReleaseError(
            "nothing was audited: the database of vulnerabilities knows none of the packages,"
            " so it is probably not within reach from here"
        )
    problems = [f"{package['name']}: {package['skip_reason']}" for package in skipped]
    for package in packages:
        for found in package.get("vulns", ()):
            mended = ", ".join(found["fix_versions"]) or "no version"
            problems.append(
                f"{package['name']} {package['version']}: {found['id']}, fixed in {mended}"
            )
    return problems, len(packages) - len(skipped)


if __name__ == "__main__":
    sys.exit(main())
