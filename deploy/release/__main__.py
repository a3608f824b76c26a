"""`make release`: makes a release from the working tree, commits and tags it.

Nothing leaves this machine; push the commit and the tag yourself.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path

from deploy.release import changelog, sbom, schema, version
from deploy.release.errors import ReleaseError
from deploy.release.version import Version

ROOT = Path(__file__).parents[2]
_LOCK = "deploy/requirements.lock"
_BASELINE = "protos/baseline.json"


@dataclass(frozen=True, slots=True)
class Release:
    """A version to release from the working tree of `root`, a Git repository."""

    root: Path
    version: Version
    day: date

    @property
    def tag(self) -> str:
        """The name of the release's Git tag."""
        return f"v{self.version}"

    def check(self) -> str:
        """Return the release's section of the changelog.

        Raises:
            ReleaseError: The tree isn't clean, the version isn't higher than all others, the schema
                doesn't tell it from the one before, or there is nothing to release.
        """
        if self._git("status", "--porcelain"):
            raise ReleaseError("the tree has changes that are not committed: commit or remove them")
        tags = self._git("tag", "--list").split()
        if self.tag in tags:
            raise ReleaseError(f"the tag {self.tag} exists already")
        text = self._changelog.read_text()
        tagged = [Version.parse(tag[1:]) for tag in tags if version.is_tag(tag)]
        released = max([*tagged, *changelog.released_versions(text)], default=None)
        if released and self.version <= released:
            raise ReleaseError(f"{self.version} is not higher than {released}, the last release")
        for path, named in version.named_versions(self.root):
            if self.version < Version.parse(named):
                raise ReleaseError(
                    f"{self.version} is lower than {named} in {path.relative_to(self.root)}"
                )
        schema.check(self.root, self.version)
        return changelog.unreleased(text)

    def make(self) -> list[Path]:
        """Make the release, all of it or nothing; return the files to publish."""
        files = [
            *version.files(self.root),
            self._changelog,
            *(self.root / name for name in (_BASELINE, schema.FILE)),
        ]
        names = [str(path.relative_to(self.root)) for path in files]
        try:
            self._write()
            published = self._build()
            self._git("commit", "--quiet", "--message", f"Release {self.version}", "--", *names)
        except BaseException:
            self._git("restore", "--source=HEAD", "--staged", "--worktree", "--", *names)
            raise
        self._git("tag", "--annotate", "--message", f"authsvc {self.version}", self.tag)
        return published

    @property
    def _changelog(self) -> Path:
        return self.root / "CHANGELOG.md"

    def _write(self) -> None:
        version.set_version(self.root, self.version)
        text = changelog.release(self._changelog.read_text(), self.version, self.day)
        self._changelog.write_text(text)
        schema.add(self.root, self.version)
        buf = str(Path(sys.executable).with_name("buf"))
        self._run(buf, "build", "protos", "--exclude-source-info", "-o", _BASELINE)

    def _build(self) -> list[Path]:
        folder = self.root / "dist"
        folder.mkdir(exist_ok=True)
        bill = folder / f"authsvc-{self.version}.cdx.json"
        lock = (self.root / _LOCK).read_text()
        bill.write_text(sbom.bill_of_materials(lock, self.version, self.day))
        self._run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder))
        return sorted(folder.glob(f"authsvc-{self.version}[.-]*"))

    def _git(self, *arguments: str) -> str:
        return self._run("git", *arguments)

    def _run(self, *command: str) -> str:
        # The wheel contains this time, so that the same tree builds the same wheel.
        midnight = datetime.combine(self.day, time(), UTC)
        done = subprocess.run(  # noqa: S603 - the commands above
            command,
            cwd=self.root,
            env={**os.environ, "SOURCE_DATE_EPOCH": str(int(midnight.timestamp()))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            name = " ".join(Path(word).name for word in command[:3])
            raise ReleaseError(f"`{name}` failed:\n{done.stdout}{done.stderr}".rstrip())
        return done.stdout


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Make the release given by the arguments; return the exit code."""
    parser = argparse.ArgumentParser(prog="make release", description=__doc__)
    parser.add_argument("version", help="the version to make: 1.2.3")
    parser.add_argument("--dry-run", action="store_true", help="check, and say what would happen")
    options = parser.parse_args(arguments)
    try:
        today = datetime.now(UTC).date()
        release = Release(root, Version.parse(options.version), today)
        changes = release.check()
        if options.dry_run:
            print(f"{release.tag} would be released on {today} with these changes:\n\n{changes}")
            return 0
        published = release.make()
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Released {release.version}. To publish: git push --follow-tags, and these files:")
    for path in published:
        print(f"  {path.relative_to(root)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
