"""Owns the import of users: one transaction per batch, so that a file can be sent again."""

import asyncio
from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from authsvc.config import ImportSettings
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.lib.ids import uuid7
from authsvc.core.passwords.foreign_hashes import FirebaseParameters
from authsvc.core.passwords.foreign_schemes import ForeignHash
from authsvc.core.passwords.hashing import PasswordHash, PasswordHasher
from authsvc.core.roles.permissions import Permissions
from authsvc.core.user_transfer.import_fields import ImportedUser, RowParser
from authsvc.core.user_transfer.import_rows import Format, Row, RowFailure, RowReader
from authsvc.core.user_transfer.import_sources import StepNeeded
from authsvc.errors import FieldInvalid, Overloaded, Resource, limit_reached
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.models.users import UserStatus
from authsvc.store import user_transfer
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.user_transfer import UserRow

BATCH_ROWS = 500
# After this many rows, or bytes, the event loop runs other work: a row takes a tenth of a
# millisecond, and so do a hundred brackets of a document. Several files may be read at once.
_ROWS_IN_A_TURN = 8
_BYTES_IN_A_TURN = 512
# How often a hash is tried to be wrapped while logins are using all of the pool.
_WRAP_TRIES = 60


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How a file is read: `firebase` applies to rows without their own parameters.

    `accept_weak_hashes` accepts hashes that are cheap to guess, and wraps them in Argon2id. With
    `dry_run`, nothing is stored.
    """

    file_format: Format = Format.AUTO
    firebase: FirebaseParameters | None = None
    accept_weak_hashes: bool = False
    dry_run: bool = False


@dataclass(slots=True)
class ImportCounts:
    """The outcomes of the rows: `skipped` counts those whose address already has an account."""

    imported: int = 0
    skipped: int = 0
    failed: int = 0


def _nothing(_: ImportCounts) -> None:
    """Do nothing."""


class UserImport:
    """Imports users from other systems, with their password hashes, within limits in `settings`."""

    def __init__(
        self,
        *,
        database: Database,
        hasher: PasswordHasher,
        permissions: Permissions,
        settings: ImportSettings,
        clock: Clock,
        directory_domains: bool = False,
    ) -> None:
        self._database = database
        self._hasher = hasher
        self._permissions = permissions
        self.settings = settings
        self._clock = clock
        self._directory_domains = directory_domains

    async def run(
        self,
        call: Call,
        parts: AsyncIterable[bytes],
        options: ImportOptions,
        on_failure: Callable[[RowFailure], None],
        on_batch: Callable[[ImportCounts], None] = _nothing,
    ) -> ImportCounts:
        """Import the users in a file, whose bytes come in parts; return the counts of its rows.

        `on_failure` is called for each invalid row, and `on_batch` after each stored batch. If the
        import ends early, what was stored stays, and is skipped when the file is sent again.

        Raises:
            FieldInvalid: The file as a whole is invalid.
            FailedPrecondition: LIMIT_REACHED: too many rows or bytes; those before are imported.
            Overloaded: Weak hashes could not be wrapped for a while, as logins use all of the pool.
        """
        work = _Import(
            database=self._database,
            hasher=self._hasher,
            clock=self._clock,
            call=call,
            options=options,
            on_failure=on_failure,
            on_batch=on_batch,
        )
        parser = RowParser(
            partial(self._hasher.take_over, accept_weak=options.accept_weak_hashes),
            options.firebase,
            self._permissions,
            self._clock.now(),
            self._directory_domains,
        )
        reader = RowReader(self.settings.max_row_bytes, options.file_format)
        size = count = 0
        async for part in _and_end(parts):
            size += len(part or b"")
            if size > self.settings.max_file_bytes:
                raise limit_reached(self.settings.max_file_bytes)
            for row in reader.end() if part is None else reader.feed(part):
                count += 1
                if count > self.settings.max_rows:
                    raise limit_reached(self.settings.max_rows)
                await work.take(row, parser)
                if count % _ROWS_IN_A_TURN == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)
        await work.flush()
        return work.counts


async def _and_end(parts: AsyncIterable[bytes]) -> AsyncIterable[bytes | None]:
    """Yield the parts in pieces, and None after the last."""
    async for part in parts:
        for at in range(0, len(part), _BYTES_IN_A_TURN):
            yield part[at : at + _BYTES_IN_A_TURN]
    yield None


class _Import:
    """An import in progress: the batch being filled, and the counts of the earlier ones."""

    def __init__(
        self,
        *,
        database: Database,
        hasher: PasswordHasher,
        clock: Clock,
        call: Call,
        options: ImportOptions,
        on_failure: Callable[[RowFailure], None],
        on_batch: Callable[[ImportCounts], None],
    ) -> None:
        self._database = database
        self._hasher = hasher
        self._clock = clock
        self._call = call
        self._options = options
        self._on_failure = on_failure
        self._on_batch = on_batch
        self._batch: dict[str, tuple[int, ImportedUser]] = {}
        self._ids: set[UserId] = set()
        self.counts = ImportCounts()

    async def take(self, row: Row | RowFailure, parser: RowParser) -> None:
        """Add a row to the batch, and store the batch when it is full."""
        if isinstance(row, RowFailure):
            self._fail(row)
            return
        try:
            user = parser.parse(row.values)
        except StepNeeded:
            raise
        except FieldInvalid as error:
            (violation,) = error.violations
            self._fail(RowFailure(row.line, violation.field, violation.description))
            return
        # A duplicate has to find the first one stored.
        if user.email.canonical in self._batch or user.user_id in self._ids:
            await self.flush()
        self._batch[user.email.canonical] = (row.line, user)
        if user.user_id is not None:
            self._ids.add(user.user_id)
        if len(self._batch) >= BATCH_ROWS:
            await self.flush()

    async def flush(self) -> None:
        """Store the batch."""
        if self._batch:
            if not self._options.dry_run:
                # Before the transaction, so that no connection waits for it.
                await self._wrap_new()
            work = self._compare if self._options.dry_run else self._store
            async with self._database.transaction() as connection:
                failures = await work(connection)
            for failure in failures:
                self._fail(failure)
            self._batch.clear()
            self._ids.clear()
        self._on_batch(self.counts)

    async def _wrap_new(self) -> None:
        """Wrap the weak hashes of the batch, but for those whose address has an account."""
        weak = {
            address: user.password
            for address, (_, user) in self._batch.items()
            if isinstance(user.password, ForeignHash)
        }
        if not weak:
            return
        async with self._database.connection() as connection:
            present = await user_transfer.find_addresses(connection, list(weak))
        for address in weak.keys() - present:
            line, user = self._batch[address]
            wrapped = await self._wrap(weak[address])
            self._batch[address] = (line, replace(user, password=wrapped))

    async def _wrap(self, weak: ForeignHash) -> PasswordHash:
        for _ in range(_WRAP_TRIES):
            try:
                return await self._hasher.wrap(weak)
            except Overloaded as error:
                await asyncio.sleep(error.retry_after)
        raise Overloaded(
            "Too many passwords are being hashed to wrap those of the import.",
            what=Resource.HASHES,
        )

    async def _store(self, connection: Connection) -> Sequence[RowFailure]:
        now = self._clock.now()
        rows = [
            _stored(user, user.password, now)
            for _, user in self._batch.values()
            if not isinstance(user.password, ForeignHash)
        ]
        inserted = await user_transfer.insert_new(connection, rows, now)
        left = [address for address in self._batch if address not in inserted]
        present = await user_transfer.find_addresses(connection, left) if left else set()
        detail = {"imported": len(inserted), "skipped": len(present)}
        event = AuditEvent(AuditType.USERS_IMPORT, self._call, detail=detail)
        await record_event(connection, now, event)
        self.counts.imported += len(inserted)
        self.counts.skipped += len(present)
        return [
            _id_taken(line, user)
            for address, (line, user) in self._batch.items()
            if address not in inserted and address not in present
        ]

    async def _compare(self, connection: Connection) -> Sequence[RowFailure]:
        """Count the outcomes that storing the batch would have."""
        present = await user_transfer.find_addresses(connection, list(self._batch))
        new = [row for address, row in self._batch.items() if address not in present]
        ids = [user.user_id for _, user in new if user.user_id is not None]
        taken = await user_transfer.find_ids(connection, ids)
        failed = [_id_taken(line, user) for line, user in new if user.user_id in taken]
        self.counts.skipped += len(present)
        self.counts.imported += len(new) - len(failed)
        return failed

    def _fail(self, failure: RowFailure) -> None:
        self.counts.failed += 1
        self._on_failure(failure)


def _stored(user: ImportedUser, password: PasswordHash | None, now: datetime) -> UserRow:
    return UserRow(
        user_id=user.user_id or UserId(uuid7(now)),
        email=user.email.address,
        email_canonical=user.email.canonical,
        display_name=user.display_name,
        phc=password.phc if password else None,
        pepper_id=password.pepper_id if password else None,
        roles=user.roles,
        status=UserStatus.DISABLED if user.disabled else UserStatus.ACTIVE,
        create_time=user.create_time or now,
        email_verify_time=now if user.verified else None,
    )


def _id_taken(line: int, user: ImportedUser) -> RowFailure:
    if user.user_id is None:
        return RowFailure(line, "", "met an account that was just deleted; send it again")
    return RowFailure(line, "user_id", "is the id of another account")
