"""Owns the blocks that operators make, lift and list."""

from collections.abc import Sequence
from ipaddress import ip_network

from authsvc.config import BlockSettings
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.limits.block_list import BlockList
from authsvc.core.limits.violations import Violations
from authsvc.errors import FieldInvalid, limit_reached
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.ip_blocks import BlockRequest, IpBlock, Unblocked
from authsvc.store import ip_blocks as store
from authsvc.store.postgres.database import Database

# Wider networks are seldom meant: of a whole region, or by a slip of the finger.
_WIDE = {4: 8, 6: 16}


class IpBlocking:
    """Makes, lifts and lists blocks.

    This replica knows of a change when it is acknowledged, and every other within a second.
    """

    def __init__(
        self,
        *,
        database: Database,
        blocks: BlockList,
        violations: Violations,
        settings: BlockSettings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._blocks = blocks
        self._violations = violations
        self._max_blocks = settings.max_blocks
        self._clock = clock

    def replace_settings(self, settings: BlockSettings) -> None:
        """Use these settings from now on."""
        self._max_blocks = settings.max_blocks

    async def block(self, call: Call, request: BlockRequest) -> IpBlock:
        """Block a network, in place of any block of it; return the block.

        Raises:
            FieldInvalid: The network is wider than usual, which was not confirmed, or it is never
                blocked.
            FailedPrecondition: LIMIT_REACHED.
        """
        network = ip_network(request.network)
        if network.prefixlen < _WIDE[network.version] and not request.confirm_wide:
            raise FieldInvalid(
                "network",
                f"has {network.num_addresses} addresses; set confirm_wide if that is intended",
            )
        if self._blocks.allowed.contain_all_of(network):
            raise FieldInvalid("network", "is never blocked, because of the setting blocks.allow")
        if len(self._blocks) >= self._max_blocks:
            raise limit_reached(self._max_blocks)
        now = self._clock.now()
        block = IpBlock(
            network=request.network,
            reason=request.reason,
            blocked_by=call.caller,
            automatic=False,
            create_time=now,
            expire_time=None if request.duration is None else now + request.duration,
        )
        until = block.expire_time.isoformat() if block.expire_time else "unblocked"
        detail = {"network": block.network, "until": until, "reason": block.reason}
        async with self._database.transaction() as connection:
            await store.put(connection, block)
            await record_event(connection, now, AuditEvent(AuditType.IP_BLOCK, call, detail=detail))
        await self._blocks.catch_up()
        return block

    async def unblock(self, call: Call, network: str) -> Unblocked:
        """Lift the block of this very network, if there is one, and forget its violations."""
        now = self._clock.now()
        async with self._database.transaction() as connection:
            was_blocked = await store.end(connection, network, now)
            if was_blocked:
                event = AuditEvent(AuditType.IP_UNBLOCK, call, detail={"network": network})
                await record_event(connection, now, event)
            remaining = await store.covering(connection, network, now)
        await self._violations.forgive(network)
        await self._blocks.catch_up()
        return Unblocked(was_blocked, remaining)

    async def list_after(self, after: str | None, limit: int) -> Sequence[IpBlock]:
        """Return up to `limit` blocks, each before those of networks that it contains."""
        async with self._database.connection() as connection:
            return await store.list_after(connection, self._clock.now(), after, limit)

    async def covering(self, part: str) -> Sequence[IpBlock]:
        """Return the blocks of a network, or an address, and of those that contain it."""
        async with self._database.connection() as connection:
            return await store.covering(connection, part, self._clock.now())
