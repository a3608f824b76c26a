"""Owns the Python packages in the image: the locked wheels, stripped and compiled."""

import base64
import csv
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.image.errors import ImageError
from deploy.image.recipe import PREFIX, PYTHON, SITE_PACKAGES, Machine
from deploy.image.staging import Interpreter


def install_locked(lock: Path, folder: Path, machine: Machine) -> None:
    """Install the wheels of `lock` into `folder`, each with the hash that it has there.

    Raises:
        ImageError: The index can't be reached, or has no such wheel.
    """
    _install(folder, machine, "--require-hashes", "-r", str(lock))


def install_own(source: Path, folder: Path, machine: Machine, epoch: int) -> None:
    """Build the wheel of the service from `source` and install it into `folder`, with its command.

    Raises:
        ImageError: It can't be built.
    """
    wheels = source / "dist"
    _run(
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels)),
        cwd=source,
        environment={"SOURCE_DATE_EPOCH": str(epoch)},
    )
    _install(folder, machine, "--no-deps", "--no-index", "--find-links", str(wheels), "authsvc")


def write_command(folder: Path) -> None:
    """Write the virtual environment around the packages, and the command `authsvc`."""
    programs = folder / PREFIX / "bin"
    programs.mkdir(parents=True)
    (programs / f"python{PYTHON}").symlink_to(f"/usr/bin/python{PYTHON}")
    for name in ("python", "python3"):
        (programs / name).symlink_to(f"python{PYTHON}")
    settings = "home = /usr/bin\ninclude-system-site-packages = false\n"
    (folder / PREFIX / "pyvenv.cfg").write_text(f"{settings}version = {PYTHON}\n")
    command = programs / "authsvc"
    command.write_text(
        f"#!/{PREFIX}/bin/python\n"
        "import sys\n\n"
        "from authsvc.__main__ import main\n\n"
        'if __name__ == "__main__":\n'
        "    sys.exit(main())\n"
    )
    command.chmod(0o755)


def installed(folder: Path) -> set[str]:
    """Return the names of the packages in `folder`, spelt as in the lock."""
    found = (folder / SITE_PACKAGES).glob("*.dist-info")
    return {re.sub(r"[-_.]+", "-", path.name.split("-")[0]).lower() for path in found}


def strip(folder: Path, interpreter: Interpreter) -> None:
    """Remove debugging symbols from compiled modules."""
    interpreter.strip(sorted((folder / SITE_PACKAGES).rglob("*.so")))


def compile_all(folder: Path, interpreter: Interpreter, *, beside: bool = False) -> None:
    """Compile every module in `folder` to bytecode that is valid without a look at its source.

    With `beside` it is where Python finds it without a source, too.
    """
    interpreter.run(
        *("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"),
        *(("-b",) if beside else ()),
        *("-s", str(folder), "-p", "/", str(folder)),
    )


def renew_records(folder: Path) -> None:
    """Say in each package's RECORD what is there now: stripped modules, bytecode for sources."""
    for record in sorted((folder / SITE_PACKAGES).glob("*.dist-info/RECORD")):
        with record.open(newline="") as file:
            names = [_present(record.parents[1], row[0]) for row in csv.reader(file)]
        with record.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(sorted(_rows(record, names)))


def _present(site: Path, name: str) -> str:
    """Return the file that took the place of `name`, if another did."""
    bytecode = f"{name}c"
    replaced = name.endswith(".py") and not (site / name).exists() and (site / bytecode).exists()
    return bytecode if replaced else name


def _rows(record: Path, names: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    site = record.parents[1]
    for name in names:
        path = site / name
        if path == record:
            yield name, "", ""
        elif path.is_file():
            digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest())
            yield name, f"sha256={digest.rstrip(b'=').decode()}", str(path.stat().st_size)


def _install(folder: Path, machine: Machine, *what: str) -> None:
    target = folder / SITE_PACKAGES
    uv = str(Path(sys.executable).with_name("uv"))
    _run(
        *(uv, "pip", "install", "--quiet", "--python", sys.executable),
        *("--python-version", PYTHON, "--python-platform", machine.wheels),
        *("--only-binary", ":all:", "--no-compile-bytecode", "--link-mode", "copy"),
        *("--target", str(target), *what),
    )
    # Their commands start with the path of this machine's Python, and nobody calls them.
    shutil.rmtree(target / "bin", ignore_errors=True)
    # What uv notes for itself: a lock, and the time at which it met a wheel in a folder.
    for note in (target / ".lock", *target.glob("*.dist-info/uv_cache.json")):
        note.unlink(missing_ok=True)


def _run(*command: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(  # noqa: S603 - programs of the environment
        command,
        cwd=cwd,
        env=os.environ | (environment or {}),
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-10:]
        raise ImageError("\n".join([f"{Path(command[0]).name} failed:", *last]))
