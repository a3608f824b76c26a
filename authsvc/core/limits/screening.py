"""Owns the screening of requests by the address of the user: blocked, limited or allowed."""

from math import isinf

from authsvc.config import BruteForceSettings
from authsvc.core.limits.block_list import BlockList
from authsvc.core.limits.limiter import RateLimiter
from authsvc.core.limits.networks import client_network
from authsvc.core.limits.violations import Violations
from authsvc.errors import IpBlocked
from authsvc.models.ip_blocks import Screened, ScreenReason
from authsvc.models.limits import Charge

_ALLOWED = Screened()


class Screening:
    """Screens requests, those of other services and of the service's own RPCs."""

    def __init__(
        self,
        *,
        blocks: BlockList,
        violations: Violations,
        limiter: RateLimiter,
        networks: BruteForceSettings,
    ) -> None:
        self._blocks = blocks
        self._violations = violations
        self._limiter = limiter
        self._networks = networks
        # Since the start.
        self.blocked = self.limited = 0

    def replace_settings(self, networks: BruteForceSettings) -> None:
        """Use these networks from the next request on."""
        self._networks = networks

    async def screen(self, ip: str, policy: str) -> Screened:
        """Charge a request from a canonical address to a policy, unless the address is blocked.

        It is charged to `ip:` and the address's network; a refusal counts as a violation.

        Raises:
            NotFound: POLICY_UNKNOWN.
            Overloaded: Too many checks are already waiting.
            StoreUnavailable: The database does not answer, or another session holds the row of the
                network for too long.
        """
        self._limiter.require(policy)
        remaining = await self._blocks.remaining(ip)
        if remaining:
            self.blocked += 1
            return Screened(ScreenReason.IP_BLOCKED, None if isinf(remaining) else remaining)
        key = f"ip:{client_network(ip, self._networks)}"
        result = await self._limiter.check([Charge(policy, key)])
        if result.allowed:
            return _ALLOWED
        self.limited += 1
        await self._violations.note(ip)
        return Screened(ScreenReason.RATE_LIMITED, result.verdicts[0].retry_after)

    async def note_refusal(self, ip: str) -> None:
        """Count a violation by a canonical address, as it used up a limit of its network."""
        await self._violations.note(ip)

    async def admit(self, ip: str) -> None:
        """Return if a canonical address is not blocked.

        Raises:
            IpBlocked: It is.
            StoreUnavailable: The copy of the blocks is not fresh, and the database does not answer.
        """
        remaining = await self._blocks.remaining(ip)
        if remaining:
            self.blocked += 1
            raise IpBlocked(None if isinf(remaining) else remaining)
