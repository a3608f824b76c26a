"""Owns what of the wheels the image leaves out: what nothing reads at run time, and sources.

`deploy/Dockerfile` runs it as a program: `python -m deploy.image.slim FOLDER`.
"""

import compileall
import sys
from collections.abc import Sequence
from pathlib import Path
from py_compile import PycInvalidationMode

from deploy.image.recipe import UNUSED


def omit_unused(packages: Path) -> None:
    """Remove from the folder `packages` what the recipe calls unused."""
    for path in [*packages.rglob("*")]:
        if path.is_file() and UNUSED.fullmatch(path.relative_to(packages).as_posix()):
            path.unlink()
    for path in sorted(packages.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def drop_sources(packages: Path) -> None:
    """Remove the source of each module whose bytecode is beside it.

    Bytecode says the file and the line of each instruction, so a traceback lacks only the text.
    """
    for path in [*packages.rglob("*.py")]:
        if path.with_suffix(".pyc").is_file():
            path.unlink()


def main(arguments: Sequence[str]) -> int:
    """Slim the packages in the folder that is the argument; return the exit code."""
    packages = Path(*arguments)
    omit_unused(packages)
    compiled = compileall.compile_dir(
        packages, quiet=1, legacy=True, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH
    )
    drop_sources(packages)
    return 0 if compiled else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
