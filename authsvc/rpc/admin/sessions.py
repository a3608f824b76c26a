"""Owns the RPC of AdminService that ends the sessions of many users."""

from authsvc.errors import FieldInvalid
from authsvc.models.sessions import SessionSelection
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.rpc.topic import Topic
from authsvc.v1 import admin_service_pb2 as pb

_MAX_USERS = 1_000


class SessionRpcs(Topic):
    """The sessions of all users."""

    async def RevokeAllSessions(
        self, request: pb.RevokeAllSessionsRequest, _context: Context
    ) -> pb.RevokeAllSessionsResponse:
        """End or count the sessions that meet all criteria."""
        selection = _selection(request)
        ending = self._use.bulk_session_ending
        if request.dry_run:
            return pb.RevokeAllSessionsResponse(revoked_count=await ending.count(selection))
        ended = await ending.end(current_call(), selection)
        return pb.RevokeAllSessionsResponse(
            revoked_count=ended.count, revocation_cursor=convert.revocation_cursor(ended.cursor)
        )


def _selection(request: pb.RevokeAllSessionsRequest) -> SessionSelection:
    if len(request.user_ids) > _MAX_USERS:
        raise FieldInvalid("user_ids", f"must have at most {_MAX_USERS} items")
    selection = SessionSelection(
        created_before=convert.time(request, "created_before_time"),
        created_after=convert.time(request, "created_after_time"),
        network=convert.network(request.network, "network") if request.network else None,
        authentication_method=(
            convert.authentication_method(request.authentication_method, "authentication_method")
            if request.authentication_method
            else ""
        ),
        user_ids=[
            convert.user_id(value, f"user_ids[{index}]")
            for index, value in enumerate(request.user_ids)
        ],
        impersonated_only=request.impersonated_only,
    )
    if request.all and not selection.is_everything:
        raise FieldInvalid("all", "excludes the other criteria")
    if selection.is_everything and not request.all:
        raise FieldInvalid("", "A criterion is required, or `all`.")
    return selection
