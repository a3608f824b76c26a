"""Owns `authsvc users import`: imports users from other systems and shows the progress."""

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
# Without a terminal, progress is one line per this many rows.
_ROWS_PER_LINE = 10_000
_SOME_FAILED = 3

FileArgument = Annotated[Path, typer.Argument(help="The file (- for standard input).")]
FirebaseOption = Annotated[
    Path | None,
    typer.Option(
        "--firebase-config",
        help="A file with the password hash parameters from the Firebase console.",
    ),
]
WeakOption = Annotated[
    bool,
    typer.Option(
        "--accept-weak-hashes",
        help="Accept password hashes that are cheap to guess, and wrap them in Argon2id.",
    ),
]
ErrorsOption = Annotated[
    Path | None,
    typer.Option("--errors", help="Write the errors of invalid rows to this file, as JSON Lines."),
]


def import_users(
    file: FileArgument,
    file_format: Annotated[
        Format, typer.Option("--format", help="The format of the file.")
    ] = Format.AUTO,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Store nothing, only show the result.")
    ] = False,
    firebase_config: FirebaseOption = None,
    accept_weak_hashes: WeakOption = False,
    errors: ErrorsOption = None,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Import users from another system with their password hashes.

    The file is JSON Lines, JSON, or CSV with a header line (with commas, semicolons or tabs), in
    UTF-8. Its fields: email, the only required one; display_name; email_verified and disabled (true
    or false); roles (a list of roles that are defined; in CSV separated by spaces); create_time
    (such as 2024-05-01T12:00:00Z); user_id (a UUID); password_hash; pepper_id for hashes from
    `users export`; salt and, in JSON, firebase for Firebase hashes.

    Exports of Firebase, Auth0, Keycloak, Kratos and Django are taken as they are.

    A password hash is one of: Argon2 ($argon2id$…), bcrypt ($2b$…), scrypt ($scrypt$…), PBKDF2
    ($pbkdf2-sha256$…), Firebase's with its salt, or what Werkzeug, Spring, LDAP servers, ASP.NET
    Identity, WordPress, Django, Laravel, Symfony, Devise or passlib made of these. It is verified
    as in the other system and replaced at the user's first login. Hashes that take more than about
    a second or 256 MiB to verify are rejected, and so are weak ones (without a salt, or with less
    than 10 ms of CPU a guess) without --accept-weak-hashes, which takes about 20 ms for each.

    A row whose address already has an account is skipped, so a file can be imported again. Exit
    codes: 0 if all rows were valid, 3 if some were not, 1 if the file as a whole could not be
    imported.
    """
    settings = settings_of(config, secrets)
    options = ImportOptions(file_format, _firebase(firebase_config), accept_weak_hashes, dry_run)

    async def main(stream: BinaryIO, failures: _Failures) -> ImportCounts:
        async with open_parts(settings) as parts:
            with _progress(_size(stream)) as progress:
                try:
                    return await parts.use.user_import.run(
                        cli_call(), _parts(stream, progress), options, failures.note, progress.count
                    )
                except ServiceError:
                    progress.print_counts_so_far()
                    raise

    with _open_input(file) as stream, _open_errors(errors) as errors_stream:
        failures = _Failures(errors_stream)
        counts = run(lambda: main(stream, failures))
        failures.end()
    print(f"{'would be ' if dry_run else ''}{_summary(counts)}")
    if counts.failed:
        raise typer.Exit(_SOME_FAILED)


class _Failures:
    """Reports invalid rows: all of them to a file, or the first ones to standard error."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._count = 0

    def note(self, failure: RowFailure) -> None:
        self._count += 1
        if self._stream is not None:
            values = {"line": failure.line, "field": failure.field, "error": failure.description}
            self._stream.write(json.dumps(values) + "\n")
        elif self._count <= _SHOWN_FAILURES:
            field = f"{failure.field} " if failure.field else ""
            print(f"line {failure.line}: {field}{failure.description}", file=sys.stderr)

    def end(self) -> None:
        if self._stream is None and self._count > _SHOWN_FAILURES:
            more = self._count - _SHOWN_FAILURES
            print(f"… and {more} more; use --errors FILE to write all of them", file=sys.stderr)


class _Progress:
    """Shows the progress of an import: a bar on a terminal, otherwise an occasional line."""

    def __init__(self, bar: Progress | None, size: int | None) -> None:
        self._bar = bar
        self._task = bar.add_task("importing", total=size) if bar else None
        self._counts = ImportCounts()
        self._next_line = _ROWS_PER_LINE

    def read(self, size: int) -> None:
        """Record that `size` more bytes were read."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, size)

    def count(self, counts: ImportCounts) -> None:
        """Record the counts so far."""
        self._counts = counts
        if self._bar is None and _rows(counts) >= self._next_line:
            self._next_line = _rows(counts) + _ROWS_PER_LINE
            self.print_counts_so_far()

    def print_counts_so_far(self) -> None:
        """Print the counts in a line, unless there are none."""
        if not _rows(self._counts):
            return
        print(f"{_rows(self._counts)} rows: {_summary(self._counts)}", file=sys.stderr)


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
    # In a thread, as reading standard input may block.
    while part := await asyncio.to_thread(stream.read, _PART_BYTES):
        yield part
        progress.read(len(part))


def _size(stream: BinaryIO) -> int | None:
    """Return how many bytes there are to read, or None if unknown."""
    try:
        return os.fstat(stream.fileno()).st_size or None
    except OSError:
        return None


@contextmanager
def _open_input(file: Path) -> Iterator[BinaryIO]:
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
def _open_errors(file: Path | None) -> Iterator[TextIO | None]:
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
        return firebase_parameters_of(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file}: {getattr(error, 'strerror', None) or 'is not text in UTF-8'}")
    except FieldInvalid as error:
        fail(f"{file}: {error.message}")


def _rows(counts: ImportCounts) -> int:
    return counts.imported + counts.skipped + counts.failed


def _summary(counts: ImportCounts) -> str:
    return f"{counts.imported} imported, {counts.skipped} skipped, {counts.failed} failed"
