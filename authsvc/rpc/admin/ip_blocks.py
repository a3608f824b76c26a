"""Owns the RPCs of AdminService on blocked addresses."""

import re
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from authsvc.core.lib import base64url, paging
from authsvc.core.lib.networks import parse_network
from authsvc.errors import FieldInvalid
from authsvc.models.ip_blocks import BlockRequest, IpBlock
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.rpc.topic import Topic
from authsvc.v1 import admin_service_pb2 as pb

MAX_REASON = 256
_LONGEST = timedelta(days=3_660)
# No control characters: a reason is one line of a table.
_LINE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*")


class IpBlockRpcs(Topic):
    """Blocks of addresses and networks."""

    async def BlockIp(self, request: pb.BlockIpRequest, _context: Context) -> pb.BlockIpResponse:
        """Block an address or a network."""
        block = await self._use.ip_blocking.block(
            current_call(),
            BlockRequest(
                network=convert.network(request.network, "network"),
                reason=line(request.reason, "reason"),
                duration=_duration(request.duration) if request.HasField("duration") else None,
                confirm_wide=request.confirm_wide,
            ),
        )
        return pb.BlockIpResponse(block=_message(block))

    async def UnblockIp(
        self, request: pb.UnblockIpRequest, _context: Context
    ) -> pb.UnblockIpResponse:
        """Lift the block of an address or a network."""
        unblocked = await self._use.ip_blocking.unblock(
            current_call(), convert.network(request.network, "network")
        )
        return pb.UnblockIpResponse(
            was_blocked=unblocked.was_blocked,
            remaining_blocks=map(_message, unblocked.remaining),
        )

    async def ListIpBlocks(
        self, request: pb.ListIpBlocksRequest, _context: Context
    ) -> pb.ListIpBlocksResponse:
        """List the blocks that are in force."""
        size = paging.page_size(request.page_size)
        after = _after(request.page_token) if request.page_token else None
        if request.covering:
            if after is not None:
                raise FieldInvalid("page_token", "can't be used with covering")
            found = await self._use.ip_blocking.covering(
                convert.network(request.covering, "covering")
            )
            return pb.ListIpBlocksResponse(blocks=map(_message, found))
        found = await self._use.ip_blocking.list_after(after, size + 1)
        page, next_page_token = paging.cut(found, size, _token_after)
        return pb.ListIpBlocksResponse(blocks=map(_message, page), next_page_token=next_page_token)


def line(value: str, field: str) -> str:
    """Return a text of at most 256 bytes on one line."""
    convert.text(value, field, MAX_REASON)
    if not _LINE.fullmatch(value):
        raise FieldInvalid(field, "must be one line without control characters")
    return value


def check_duration(duration: timedelta, field: str) -> timedelta:
    """Return the length of a block, from one second to 3660 days."""
    if not timedelta(seconds=1) <= duration <= _LONGEST:
        raise FieldInvalid(field, "must be from one second to 3660 days")
    return duration


def _duration(message: Duration) -> timedelta:
    return check_duration(convert.interval(message, "duration"), "duration")


def _after(token: str) -> str:
    try:
        return parse_network(base64url.decode(token).decode("ascii"))
    except ValueError:
        raise FieldInvalid("page_token", "is not a page token of this list") from None


def _token_after(last: IpBlock) -> str:
    return base64url.encode(last.network.encode())


def _message(block: IpBlock) -> pb.IpBlock:
    message = pb.IpBlock(
        network=block.network,
        create_time=convert.timestamp(block.create_time),
        reason=block.reason,
        blocked_by=block.blocked_by,
        automatic=block.automatic,
    )
    if block.expire_time is not None:
        message.expire_time.CopyFrom(convert.timestamp(block.expire_time))
    return message
