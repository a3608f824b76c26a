"""Owns `authsvc users export`: gives users back, as a file that the import takes."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from authsvc.app.build import open_parts
from authsvc.cli.calls import cli_call
from authsvc.cli.output import ConfigOption, SecretsOption, fail, run, settings_of


def export_users(
    file: Annotated[Path, typer.Argument(help="The file; - is standard output.")] = Path("-"),
    without_passwords: Annotated[
        bool, typer.Option("--without-passwords", help="Leave the password hashes out.")
    ] = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Give back all users, as JSON Lines that `users import` takes.

    With the password hashes the file is as secret as the database: only its owner may read it, and
    whoever has it can try passwords. This service's own hashes work only where the settings have
    the pepper that they were made with. Second factors, identities and sessions are not part of it.
    """
    settings = settings_of(config, secrets)

    async def main(stream: BinaryIO) -> int:
        count = 0
        async with open_parts(settings) as parts:
            lines = parts.use.user_export.lines(cli_call(), with_passwords=not without_passwords)
            async for line in lines:
                _write(stream, line)
                count += 1
        return count

    if str(file) == "-":
        run(lambda: main(sys.stdout.buffer))
        return
    with _replacing(file) as stream:
        count = run(lambda: main(stream))
    print(f"{count} users written to {file}.")


def _write(stream: BinaryIO, line: bytes) -> None:
    try:
        stream.write(line)
    except OSError as error:
        fail(f"the output can't be written: {error.strerror}")


@contextmanager
def _replacing(file: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `file` in the end, and that only its owner may read."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    scratch = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(handle)
        scratch.replace(file)
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    finally:
        scratch.unlink(missing_ok=True)
