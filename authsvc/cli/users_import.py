"""Owns `authsvc users import`: takes users over from elsewhere, and says how far it is."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from authsvc.app.build import open_parts
from authsvc.cli.calls import cli_call
from authsvc.cli.output import ConfigOption, SecretsOption, fail, run, settings_of
from authsvc.core.passwords.foreign_hashes import FirebaseParameters
from authsvc.core.user_transfer.import_fields import firebase_parameters_of
from authsvc.core.user_transfer.import_rows import Format, RowFailure
from authsvc.core.user_transfer.importing import ImportCounts, ImportOptions
from authsvc.errors import FieldInvalid, ServiceError

_PART_BYTES = 65_536
_SHOWN_FAILURES = 20
# Without a terminal, a line after so many rows.
_ROWS_A_LINE = 10_000
_SOME_FAILED = 3

FileArgument = Annotated[Path, typer.Argument(help="The file; - is standard input.")]
FirebaseOption = Annotated[
    Path | None,
    typer.Option(
        "--firebase-config",
        help="A file with the password hash parameters as the Firebase console shows them.",
    ),
]
ErrorsOption = Annotated[
    Path | None,
    typer.Option("--errors", help="Write the rows that can't be used to this file, as JSON lines."),
]


def import_users(
    file: FileArgument,
    file_format: Annotated[
        Format, typer.Option("--format", help="What the file is written in.")
    ] = Format.AUTO,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Store nothing; say what would be.")
    ] = False,
    firebase_config: FirebaseOption = None,
    errors: ErrorsOption = None,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Take over users from elsewhere, with their password hashes.

    The file is JSON Lines or CSV with a first line of names, in UTF-8. Its fields: email, which is
    all that has to be there; display_name; email_verified and disabled (true or false); roles (a
    list; in CSV separated by spaces); create_time (such as 2024-05-01T12:00:00Z); user_id (a UUID);
    password_hash; pepper_id for hashes that `users export` gave; salt, and in JSON firebase, for
    hashes of Firebase.

    A password hash is one of: Argon2 ($argon2id$…), bcrypt ($2b$…), scrypt ($scrypt$…), PBKDF2
    ($pbkdf2-sha256$…), Django's spellings of these, or Firebase's with its salt. It is compared as
    the other system did, and replaced at the user's first login. Hashes that take more than about
    a second or 256 MiB are refused.

    Who has an account with the address already is skipped, so a file can be sent again. Exit code
    0: all rows could be used; 3: some could not; 1: the file as a whole could not.
    """
    settings = settings_of(config, secrets)
    options = ImportOptions(file_format, _firebase(firebase_config), dry_run)

    async def main(stream: BinaryIO, failures: _Failures) -> ImportCounts:
        async with open_parts(settings) as parts:
            with _progress(_size(stream)) as progress:
                try:
                    return await parts.use.user_import.run(
                        cli_call(), _parts(stream, progress), options, failures.note, progress.count
                    )
                except ServiceError:
                    progress.say_counts()
                    raise

    with _opened(file) as stream, _written(errors) as told:
        failures = _Failures(told)
        counts = run(lambda: main(stream, failures))
        failures.end()
    print(f"{'would be ' if dry_run else ''}{_said(counts)}")
    if counts.failed:
        raise typer.Exit(_SOME_FAILED)


class _Failures:
    """Tells of rows that can't be used: into a file, or the first ones on standard error."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._count = 0

    def note(self, failure: RowFailure) -> None:
        self._count += 1
        if self._stream is not None:
            values = {"line": failure.line, "field": failure.field, "error": failure.description}
            self._stream.write(json.dumps(values) + "\n")
        elif self._count <= _SHOWN_FAILURES:
            named = f"{failure.field} " if failure.field else ""
            print(f"line {failure.line}: {named}{failure.description}", file=sys.stderr)

    def end(self) -> None:
        if self._stream is None and self._count > _SHOWN_FAILURES:
            more = self._count - _SHOWN_FAILURES
            print(f"… and {more} more; --errors FILE writes all of them", file=sys.stderr)


class _Progress:
    """Says how far an import is: a bar on a terminal, else a line now and then."""

    def __init__(self, bar: Progress | None, size: int | None) -> None:
        self._bar = bar
        self._task = bar.add_task("importing", total=size) if bar else None
        self._counts = ImportCounts()
        self._next_line = _ROWS_A_LINE

    def read(self, size: int) -> None:
        """Note that so many bytes more were read."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, size)

    def count(self, counts: ImportCounts) -> None:
        """Note what became of the rows so far."""
        self._counts = counts
        if self._bar is None and _rows(counts) >= self._next_line:
            self._next_line = _rows(counts) + _ROWS_A_LINE
            self.say_counts()

    def say_counts(self) -> None:
        """Say what became of the rows so far, in a line."""
        print(f"{_rows(self._counts)} rows: {_said(self._counts)}", file=sys.stderr)


@contextmanager
def _progress(size: int | None) -> Iterator[_Progress]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Progress(None, size)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        yield _Progress(bar, size)


async def _parts(stream: BinaryIO, progress: _Progress) -> AsyncIterator[bytes]:
    # In a thread, as standard input may take its time.
    while part := await asyncio.to_thread(stream.read, _PART_BYTES):
        yield part
        progress.read(len(part))


def _size(stream: BinaryIO) -> int | None:
    """Return how many bytes there are to read, None if nobody knows."""
    try:
        return os.fstat(stream.fileno()).st_size or None
    except OSError:
        return None


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    with stream:
        yield stream


@contextmanager
def _written(file: Path | None) -> Iterator[TextIO | None]:
    if file is None:
        yield None
        return
    try:
        stream = file.open("w", encoding="utf-8")
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    with stream:
        yield stream


def _firebase(file: Path | None) -> FirebaseParameters | None:
    if file is None:
        return None
    try:
        return firebase_parameters_of(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file}: {getattr(error, 'strerror', None) or 'is not text'}")
    except FieldInvalid as error:
        fail(f"{file}: {error.message}")


def _rows(counts: ImportCounts) -> int:
    return counts.imported + counts.skipped + counts.failed


def _said(counts: ImportCounts) -> str:
    return f"{counts.imported} imported, {counts.skipped} skipped, {counts.failed} failed"
