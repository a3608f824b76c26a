"""Owns violations: refusals by address, counted across replicas, and the blocks that follow."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping

import structlog
from cachetools import TTLCache

from authsvc.config import BlockSettings, BruteForceSettings, durations
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.audit.schema import Detail
from authsvc.core.lib.slices import Slices
from authsvc.core.limits.block_list import BlockList
from authsvc.core.limits.limiter import Check, RateLimiter, policies_from
from authsvc.core.limits.networks import client_network
from authsvc.errors import ServiceError
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.limits import Charge
from authsvc.store import ip_blocks as store
from authsvc.store.postgres.database import Database

log = structlog.get_logger(__name__)

_POLICY = "authsvc.violations"
_INTERVAL = 1.0
# Networks that a process counts at a time. Those beyond have to wait for the next second.
_MAX_COUNTED = 100_000
# One in so many blocks can be made by operators only.
_OPERATORS_SHARE = 10
_SYSTEM = Call(request_id="", caller="system")


class Violations:
    """Counts violations by network, and blocks networks that have too many within the window.

    They are counted in memory and added to those of all replicas once a second. A network whose
    violations are too many as far as this process knows is judged at once. `at_us`, for tests, is
    the clock of the limits.
    """

    def __init__(
        self,
        *,
        database: Database,
        blocks: BlockList,
        settings: BlockSettings,
        networks: BruteForceSettings,
        slices: Slices,
        clock: Clock,
        at_us: Callable[[], int] | None = None,
    ) -> None:
        self._database = database
        self._blocks = blocks
        self._slices = slices
        self._clock = clock
        self._limiter = RateLimiter(
            database=database, policies=policies_from({}), rejected_cache_size=0, clock=at_us
        )
        self._counts: dict[str, int] = {}
        # Counts that are being judged at this moment.
        self._judged: Counter[str] = Counter()
        # How many violations all replicas had seen, when this one last added its own.
        self._known: TTLCache[str, int]
        self.noted = self.blocked = 0
        self._is_full = False
        self.replace_settings(settings, networks)

    def replace_settings(self, settings: BlockSettings, networks: BruteForceSettings) -> None:
        """Use these settings from the next violation on."""
        self._settings, self._networks = settings, networks
        self._limiter.replace_policies(policies_from({_POLICY: settings.violations}))
        self._known = TTLCache(_MAX_COUNTED, settings.violations.window.total_seconds())

    async def note(self, ip: str | None) -> None:
        """Count a violation of the network of a canonical address, if it is known.

        If it is one too many, the network is blocked when this returns.
        """
        network = client_network(ip, self._networks)
        if ip is None or network is None or self._blocks.allowed.contain(ip):
            return
        self.noted += 1
        count = self._counts.get(network, 0) + 1
        if not self._settings.automatic or (count == 1 and len(self._counts) >= _MAX_COUNTED):
            return
        self._counts[network] = count
        if count + self._judged[network] + self._known.get(network, 0) <= self._most:
            return
        if not self._judged[network]:
            await self._judge({network: self._counts.pop(network)})
        elif self._judged[network] <= self._most:
            # With what is being added at this moment, there are too many.
            await self._judge({network: self._counts.pop(network) + self._most})

    async def forgive(self, network: str) -> None:
        """Forget the violations of a network; StoreUnavailable if the database does not answer."""
        self._counts.pop(network, None)
        self._known.pop(network, None)
        await self._limiter.reset(_POLICY, network)

    async def flush(self) -> None:
        """Add what this process has counted to the violations of all replicas."""
        counts, self._counts = self._counts, {}
        if counts:
            await self._judge(counts)

    async def run(self) -> None:
        """Flush every second, until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL)
            await self.flush()

    @property
    def _most(self) -> int:
        return self._settings.violations.requests

    async def _judge(self, counts: Mapping[str, int]) -> None:
        self._judged.update(counts)
        # Too many already: nothing has to be known of other replicas.
        excess = {network: count for network, count in counts.items() if count > self._most}
        rest = {network: count for network, count in counts.items() if network not in excess}
        try:
            if rest:
                excess |= await self._add(rest)
                rest = {}
            if excess:
                await self._block(list(excess))
                excess = {}
        except ServiceError as error:
            log.warning("violations_not_counted", reason=error.reason)
        finally:
            self._judged -= Counter(counts)
            for network in counts:
                # Those that were refused in the meantime, or whose block could not be stored yet.
                kept = rest.get(network, 0) or excess.get(network, 0)
                if kept and len(self._counts) < _MAX_COUNTED:
                    self._counts[network] = self._counts.get(network, 0) + kept

    async def _add(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Add to the counts of all replicas; return those that are too many then."""
        checks = [Check([Charge(_POLICY, network, count)]) for network, count in counts.items()]
        results = await self._limiter.check_many(checks, self._slices)
        excess = {}
        for (network, count), result in zip(counts.items(), results, strict=True):
            if result.allowed:
                self._known[network] = self._most - result.verdicts[0].remaining
            else:
                excess[network] = count
        return excess

    async def _block(self, networks: list[str]) -> None:
        # A flood from many networks must leave room for the blocks of operators.
        most = self._settings.max_blocks - self._settings.max_blocks // _OPERATORS_SHARE
        networks = networks[: max(0, most - len(self._blocks))]
        if not networks:
            if not self._is_full:
                log.warning("ip_blocks_full", count=len(self._blocks))
            self._is_full = True
            return
        self._is_full = False
        now, settings = self._clock.now(), self._settings
        end = now + settings.duration
        for network in networks:
            self._blocks.add(network, end.timestamp())
        window = durations.text(settings.violations.window)
        reason = f"more than {self._most} requests were refused within {window}"
        async with self._database.transaction() as connection:
            blocked = await store.put_automatic(
                connection,
                networks,
                reason=reason,
                blocked_by=_SYSTEM.caller,
                now=now,
                expire_time=end,
            )
            for network in blocked:
                detail: Detail = {"network": network, "automatic": True, "until": end.isoformat()}
                event = AuditEvent(AuditType.IP_BLOCK, _SYSTEM, detail=detail)
                await record_event(connection, now, event)
        self.blocked += len(blocked)
        for network in networks:
            self._counts.pop(network, None)
            self._known.pop(network, None)
