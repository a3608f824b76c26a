"""Owns `authsvc users export`: writes users to a file that the import reads."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO
from uuid import UUID

import typer

from authsvc.app.build import open_parts
from authsvc.cli.calls import cli_call
from authsvc.cli.output import ConfigOption, SecretsOption, fail, run, settings_of
from authsvc.models.ids import UserId

# Progress is one line per this many users.
_USERS_PER_LINE = 10_000


def export_users(
    file: Annotated[Path, typer.Argument(help="The file (- for standard output).")] = Path("-"),
    without_passwords: Annotated[
        bool, typer.Option("--without-passwords", help="Omit the password hashes.")
    ] = False,
    after: Annotated[
        UUID | None,
        typer.Option(
            "--after",
            help="Go on after the user with this id, the last one of an interrupted export.",
        ),
    ] = None,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Export all users as JSON Lines, which `users import` reads.

    With the password hashes, the file is as secret as the database: it is readable by its owner
    only, and anyone who has it can guess passwords offline. Hashes made by this service work only
    where the settings contain the same pepper. Second factors, identities and sessions are not
    exported.
    """
    settings = settings_of(config, secrets)

    async def main(stream: BinaryIO) -> int:
        count = 0
        async with open_parts(settings) as parts:
            users = parts.use.user_export.run(
                cli_call(),
                with_passwords=not without_passwords,
                after=UserId(after) if after else None,
            )
            async for user in users:
                _write(stream, user.line)
                count += 1
                if count % _USERS_PER_LINE == 0:
                    print(f"{count} users so far", file=sys.stderr)
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
        fail(f"cannot write the output: {error.strerror}")


@contextmanager
def _replacing(file: Path) -> Iterator[BinaryIO]:
    """Open a file, readable by its owner only, that replaces `file` once it is complete."""
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
