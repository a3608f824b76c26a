"""Owns the image's Python at work on the building machine, without a container.

The C library's loader starts it with the image's own libraries, so that bytecode and compressed
data are those of the locked versions, whatever the machine has.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from deploy.image.errors import ImageError
from deploy.image.recipe import PYTHON, Machine


@dataclass(frozen=True, slots=True)
class Interpreter:
    """Runs programs out of `root`, a folder with the image's first layer or its tools."""

    root: Path
    machine: Machine

    def run(self, *arguments: str) -> str:
        """Run Python with `arguments`; return what it prints.

        Raises:
            ImageError: It failed.
        """
        python = f"usr/bin/python{PYTHON}"
        # The hash of a string decides the order of a set in bytecode.
        environment = {"PYTHONHOME": str(self.root / "usr"), "PYTHONHASHSEED": "0"}
        return self._run(python, arguments, environment | {"PYTHONDONTWRITEBYTECODE": "1"})

    def strip(self, files: list[Path]) -> None:
        """Remove from compiled modules what only a debugger needs."""
        program = f"usr/bin/{self.machine.triplet}-strip"
        self._run(program, ("--strip-unneeded", *map(str, files)), {})

    def _run(self, program: str, arguments: tuple[str, ...], environment: dict[str, str]) -> str:
        loader, libraries, path = (
            str(self.root / each)
            for each in (self.machine.loader, f"usr/lib/{self.machine.triplet}", program)
        )
        done = subprocess.run(  # noqa: S603 - the image's own programs
            [loader, "--library-path", libraries, path, *arguments],
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"} | environment,
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-10:]
            raise ImageError("\n".join([f"{program} failed:", *last]))
        return done.stdout
