"""Owns the RPCs of AdminService that import and export users."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from uuid import UUID

from authsvc.core.lib import base64url
from authsvc.core.use_cases import UseCases
from authsvc.core.user_transfer.import_fields import firebase_parameters
from authsvc.core.user_transfer.import_rows import RowFailure
from authsvc.core.user_transfer.importing import ImportOptions
from authsvc.errors import FieldInvalid, Overloaded, Resource, StoreUnavailable
from authsvc.models.ids import UserId
from authsvc.rpc import Context
from authsvc.rpc.call_context import current_call
from authsvc.rpc.topic import Topic
from authsvc.v1 import admin_service_pb2 as pb

_MAX_FAILURES = 1_000
# A slow reader occupies one of these, but no connection to the database.
_MAX_EXPORTS = 16
_MAX_CHUNK = 60 * 1_024
_ID_BYTES = 16


class UserTransferRpcs(Topic):
    """The import of users from other systems, and the export to them."""

    def __init__(self, use: UseCases) -> None:
        super().__init__(use)
        self._imports = 0
        self._exports = 0

    async def ImportUsers(
        self, requests: AsyncIterator[pb.ImportUsersRequest], _context: Context
    ) -> pb.ImportUsersResponse:
        """Import the users in a file; the first message specifies how to read it."""
        failures: list[pb.ImportFailure] = []

        def note(failure: RowFailure) -> None:
            if len(failures) < _MAX_FAILURES:
                failures.append(
                    pb.ImportFailure(
                        line=failure.line, field=failure.field, description=failure.description
                    )
                )

        with self._import_slot():
            first = await self._next(requests)
            if first is None:
                return pb.ImportUsersResponse()
            counts = await self._use.user_import.run(
                current_call(), self._parts(first, requests), _options(first), note
            )
        return pb.ImportUsersResponse(
            imported_count=counts.imported,
            skipped_count=counts.skipped,
            failed_count=counts.failed,
            failures=failures,
        )

    async def ExportUsers(
        self, request: pb.ExportUsersRequest, _context: Context
    ) -> AsyncIterator[pb.ExportUsersResponse]:
        """Stream all users, or go on with an earlier stream."""
        after = _resumed(request.page_token) if request.page_token else None
        chunk, last = bytearray(), after
        with self._export_slot():
            async with aclosing(
                self._use.user_export.run(
                    current_call(), with_passwords=request.include_password_hashes, after=after
                )
            ) as users:
                async for user in users:
                    if chunk and len(chunk) + len(user.line) > _MAX_CHUNK:
                        yield _exported(chunk, last)
                        chunk.clear()
                    chunk += user.line
                    last = user.user_id
            yield _exported(chunk, last)

    @contextmanager
    def _export_slot(self) -> Iterator[None]:
        if self._exports >= _MAX_EXPORTS:
            raise Overloaded("Too many exports are in progress.", 10, Resource.TRANSFERS)
        self._exports += 1
        try:
            yield
        finally:
            self._exports -= 1

    @contextmanager
    def _import_slot(self) -> Iterator[None]:
        if self._imports >= self._use.user_import.settings.max_parallel:
            raise Overloaded("Too many imports are in progress.", 10, Resource.TRANSFERS)
        self._imports += 1
        try:
            yield
        finally:
            self._imports -= 1

    async def _parts(
        self, first: pb.ImportUsersRequest, requests: AsyncIterator[pb.ImportUsersRequest]
    ) -> AsyncIterator[bytes]:
        yield first.chunk
        while (request := await self._next(requests)) is not None:
            if request.HasField("firebase") or request.dry_run or request.accept_weak_hashes:
                raise FieldInvalid("", "Only the first message may specify how to read the file.")
            yield request.chunk

    async def _next(
        self, requests: AsyncIterator[pb.ImportUsersRequest]
    ) -> pb.ImportUsersRequest | None:
        """Return the next message, or None after the last; an idle import is ended."""
        seconds = self._use.user_import.settings.idle_timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                return await anext(requests, None)
        except TimeoutError:
            raise StoreUnavailable(f"No part of the file arrived for {seconds:g} s.") from None


def _exported(chunk: bytearray, last: UserId | None) -> pb.ExportUsersResponse:
    token = base64url.encode(last.bytes) if last else ""
    return pb.ExportUsersResponse(chunk=bytes(chunk), next_page_token=token)


def _resumed(token: str) -> UserId:
    """Return the last user of the part that was received."""
    try:
        content = base64url.decode(token)
    except ValueError:
        content = b""
    if len(content) != _ID_BYTES:
        raise FieldInvalid("page_token", "Not a token of an export.")
    return UserId(UUID(bytes=content))


def _options(request: pb.ImportUsersRequest) -> ImportOptions:
    firebase = None
    if request.HasField("firebase"):
        names = (field.name for field in pb.FirebaseScrypt.DESCRIPTOR.fields)
        firebase = firebase_parameters({name: getattr(request.firebase, name) for name in names})
    return ImportOptions(
        firebase=firebase,
        accept_weak_hashes=request.accept_weak_hashes,
        dry_run=request.dry_run,
    )
