"""Owns the RPC of AdminService that imports users."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from authsvc.core.use_cases import UseCases
from authsvc.core.user_transfer.import_fields import firebase_parameters
from authsvc.core.user_transfer.import_rows import RowFailure
from authsvc.core.user_transfer.importing import ImportOptions
from authsvc.errors import FieldInvalid, Overloaded, StoreUnavailable
from authsvc.rpc import Context
from authsvc.rpc.call_context import current_call
from authsvc.rpc.topic import Topic
from authsvc.v1 import admin_service_pb2 as pb

_MAX_FAILURES = 1_000


class UserTransferRpcs(Topic):
    """The import of users from other systems."""

    def __init__(self, use: UseCases) -> None:
        super().__init__(use)
        self._imports = 0

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

    @contextmanager
    def _import_slot(self) -> Iterator[None]:
        if self._imports >= self._use.user_import.settings.max_parallel:
            raise Overloaded("Too many imports are in progress.", retry_after=10)
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
