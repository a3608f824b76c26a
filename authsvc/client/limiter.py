"""Owns rate-limit checks by the service: many of them in one call."""

from collections.abc import Iterable, Sequence

from authsvc.client.batching import AioBatcher, SyncBatcher
from authsvc.client.connection import AsyncClient, Client
from authsvc.v1.rate_limit_service_pb2 import (
    BatchCheckRateLimitsRequest,
    Charge,
    CheckRateLimitRequest,
    CheckRateLimitResponse,
)

# As BatchCheckRateLimits allows.
_MAX_CHARGES = 2_000


class AsyncRateLimiter:
    """Checks rate limits in as few calls as possible.

    Checks that come while a call is in progress share the next one; each is decided by itself.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._limits = client.limits
        self._batcher = AioBatcher(self._send, client.channel.settings, _MAX_CHARGES)

    async def check(self, policy: str, key: str, cost: int = 1) -> CheckRateLimitResponse:
        """Charge a key; return whether the charge fitted and was taken.

        Raises:
            AuthsvcError: The policy is unknown, the key or the cost is invalid, or the call failed:
                it is repeated only if nothing was charged (`without_effect`).
        """
        return await self.check_all([Charge(policy=policy, key=key, cost=cost)])

    async def check_all(
        self, charges: Iterable[Charge], *, dry_run: bool = False
    ) -> CheckRateLimitResponse:
        """Take all of these charges, or none of them if one does not fit.

        Raises:
            AuthsvcError: As `check`.
        """
        request = CheckRateLimitRequest(charges=charges, dry_run=dry_run)
        return await self._batcher.submit(request, len(request.charges))

    async def _send(self, checks: list[CheckRateLimitRequest]) -> Sequence[CheckRateLimitResponse]:
        if len(checks) == 1:
            return [await self._limits.CheckRateLimit(checks[0])]
        batch = BatchCheckRateLimitsRequest(checks=checks)
        return (await self._limits.BatchCheckRateLimits(batch)).results


class RateLimiter:
    """Checks rate limits in as few calls as possible: the twin of AsyncRateLimiter."""

    def __init__(self, client: Client) -> None:
        self._limits = client.limits
        self._batcher = SyncBatcher(self._send, client.channel.settings, _MAX_CHARGES)

    def check(self, policy: str, key: str, cost: int = 1) -> CheckRateLimitResponse:
        """Charge a key; return whether the charge fitted and was taken.

        Raises:
            AuthsvcError: The policy is unknown, the key or the cost is invalid, or the call failed:
                it is repeated only if nothing was charged (`without_effect`).
        """
        return self.check_all([Charge(policy=policy, key=key, cost=cost)])

    def check_all(
        self, charges: Iterable[Charge], *, dry_run: bool = False
    ) -> CheckRateLimitResponse:
        """Take all of these charges, or none of them if one does not fit.

        Raises:
            AuthsvcError: As `check`.
        """
        request = CheckRateLimitRequest(charges=charges, dry_run=dry_run)
        return self._batcher.submit(request, len(request.charges))

    def _send(self, checks: list[CheckRateLimitRequest]) -> Sequence[CheckRateLimitResponse]:
        if len(checks) == 1:
            return [self._limits.CheckRateLimit(checks[0])]
        batch = BatchCheckRateLimitsRequest(checks=checks)
        return self._limits.BatchCheckRateLimits(batch).results
