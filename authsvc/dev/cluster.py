"""Owns the creation of a PostgreSQL cluster, all or nothing."""

import os
import re
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

from authsvc.dev.binaries import EmbeddedPostgresError, major_version
from authsvc.dev.process import Launcher, User, visible

ROLE = "authsvc"
DATABASE = "authsvc"
SUPERUSER = "postgres"

_INITDB_TIMEOUT = 120.0
_UNFINISHED = "unfinished-"


class StartFailedError(EmbeddedPostgresError):
    """PostgreSQL could not be initialised or started."""


def make_cluster(
    home: Path, binaries: Path, launcher: Launcher, user: User | None, *, lock: int, durable: bool
) -> None:
    """Create `home`/data and `home`/password unless `home`/data exists.

    The role `authsvc` owns the database of that name and may create others. It and the superuser
    `postgres` have the same random password. `lock` is a file descriptor that the programs inherit.
    """
    for leftover in home.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(leftover)
    data = home / "data"
    if data.exists():
        _check_version(data, binaries)
        return
    password = secrets.token_urlsafe(24)
    work = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=home))
    (work / "password").write_text(password)
    if user is not None:
        os.chown(work / "password", user.uid, user.gid)
        os.chown(work, user.uid, user.gid)
    with visible(user, work) as ((folder,), descriptors):
        keep = (lock, *descriptors)
        cluster = f"{folder}/data"
        options = ["-D", cluster, "-U", SUPERUSER, f"--pwfile={folder}/password"]
        options += ["-A", "scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums"]
        if not durable:
            options.append("--no-sync")
        _run(launcher, [binaries / "initdb", *options], keep)
        single = ["--single", "-D", cluster, "-c", "log_min_error_statement=panic", "postgres"]
        _run(launcher, [binaries / "postgres", *single], keep, _first_statements(password))
    _write_private(home / "password", password)
    (work / "data").rename(data)
    shutil.rmtree(work)


def _first_statements(password: str) -> bytes:
    # Single-user mode reads one statement per line.
    return (
        f"CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{password}'\n"
        f"CREATE DATABASE {DATABASE} OWNER {ROLE}\n"
    ).encode()


def _run(
    launcher: Launcher, command: list[str | Path], keep: tuple[int, ...], stdin: bytes = b""
) -> None:
    with tempfile.TemporaryFile() as output:
        process = launcher.start(command, keep=keep, output=output, stdin=subprocess.PIPE)
        try:
            process.communicate(stdin, timeout=_INITDB_TIMEOUT)
        except BaseException:
            process.kill()
            process.wait()
            raise
        output.seek(0)
        error = last_error(output.read())
    if process.returncode != 0 or error:
        name = Path(command[0]).name
        raise StartFailedError(f"{name} failed: {error or f'status {process.returncode}'}")


def last_error(output: bytes) -> str | None:
    """Return the last error message in a program's output, without its prefix."""
    errors = re.findall(rb"(?:PANIC|FATAL|ERROR|[Ee]rror):\s*(.+)", output)
    return errors[-1].decode(errors="replace") if errors else None


def _check_version(data: Path, binaries: Path) -> None:
    created_by = (data / "PG_VERSION").read_text().strip()
    version = major_version(binaries)
    if created_by != str(version):
        raise StartFailedError(
            f"the data in {data.parent} was created by PostgreSQL {created_by} and this is"
            f" PostgreSQL {version}: remove that folder to start over"
        )


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text)
