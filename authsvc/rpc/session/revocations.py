"""Owns the RPC of SessionService that streams revocations."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import cast

from authsvc.core.lib.slices import Slices
from authsvc.core.revocations.missed import WatchedRevocations
from authsvc.models.revocations import LoggedRevocation
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_caller
from authsvc.rpc.topic import Topic
from authsvc.v1 import session_service_pb2 as pb

_MAX_CURSOR = 16_384


class RevocationRpcs(Topic):
    """The stream of revocations."""

    async def WatchRevocations(
        self, request: pb.WatchRevocationsRequest, _context: Context
    ) -> AsyncIterator[pb.WatchRevocationsResponse]:
        """Stream what is ended, in responses that are encoded once for all watchers."""
        cursor = convert.text(request.cursor, "cursor", _MAX_CURSOR)
        caller = current_caller().identity
        async with aclosing(self._use.revocation_watch.watch(cursor, caller)) as responses:
            async for response in responses:
                yield cast("pb.WatchRevocationsResponse", response)


def encoder(slices: Slices) -> Callable[[WatchedRevocations], Awaitable[bytes]]:
    """Return what encodes responses of WatchRevocations."""

    async def encode(watched: WatchedRevocations) -> bytes:
        response = pb.WatchRevocationsResponse(
            cursor=watched.cursor,
            known_until_time=convert.timestamp(watched.known_until),
            complete=watched.is_complete,
        )

        def add(revocation: LoggedRevocation) -> None:
            validity = max(watched.validity, revocation.validity)
            message = response.revocations.add(
                revoke_time=convert.timestamp(revocation.revoke_time),
                expire_time=convert.timestamp(revocation.revoke_time + validity),
            )
            setattr(message, f"{revocation.kind}_id", revocation.id)

        await slices.map(add, watched.revocations)
        return response.SerializeToString()

    return encode
