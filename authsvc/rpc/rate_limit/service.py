"""Owns the handlers of RateLimitService: each converts, asks the rate limiter, converts back."""

from authsvc.core.limits.limiter import Check, RateLimiter
from authsvc.errors import FieldInvalid
from authsvc.rpc import Context, convert
from authsvc.rpc.rate_limit import messages
from authsvc.v1 import rate_limit_service_pb2 as pb
from authsvc.v1 import rate_limit_service_pb2_grpc as rpc


class RateLimitHandler(rpc.RateLimitServiceServicer):
    """May this happen now? Limits that all replicas share."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter

    async def CheckRateLimit(
        self, request: pb.CheckRateLimitRequest, _context: Context
    ) -> pb.CheckRateLimitResponse:
        """Take every charge of a check, or none."""
        charges = messages.charges(request.charges)
        result = await self._limiter.check(charges, dry_run=request.dry_run)
        return messages.fill_check(pb.CheckRateLimitResponse(), result)

    async def BatchCheckRateLimits(
        self, request: pb.BatchCheckRateLimitsRequest, _context: Context
    ) -> pb.BatchCheckRateLimitsResponse:
        """Decide up to 1000 checks, each on its own."""
        convert.batch_size(request.checks, "checks")
        checks: list[Check] = []
        total = 0
        for check in request.checks:
            charges = messages.charges(check.charges, lambda: f"checks[{len(checks)}].charges")
            checks.append(Check(charges, check.dry_run))
            total += len(charges)
        if total > messages.MAX_BATCH_CHARGES:
            at_most = f"must hold at most {messages.MAX_BATCH_CHARGES} charges in all"
            raise FieldInvalid("checks", at_most)
        response = pb.BatchCheckRateLimitsResponse()
        for result in await self._limiter.check_many(checks):
            messages.fill_check(response.results.add(), result)
        return response

    async def GetRateLimit(
        self, request: pb.GetRateLimitRequest, _context: Context
    ) -> pb.GetRateLimitResponse:
        """Return a key's state and take nothing."""
        verdict = await self._limiter.get(
            messages.policy_name(request.policy, "policy"), messages.limit_key(request.key, "key")
        )
        response = pb.GetRateLimitResponse()
        messages.fill_verdict(response.verdict, verdict)
        return response

    async def RefundRateLimit(
        self, request: pb.RefundRateLimitRequest, _context: Context
    ) -> pb.RefundRateLimitResponse:
        """Give back what an earlier check took."""
        verdict = await self._limiter.refund(
            messages.policy_name(request.policy, "policy"),
            messages.limit_key(request.key, "key"),
            messages.cost(request.cost, "cost"),
        )
        response = pb.RefundRateLimitResponse()
        messages.fill_verdict(response.verdict, verdict)
        return response

    async def ResetRateLimit(
        self, request: pb.ResetRateLimitRequest, _context: Context
    ) -> pb.ResetRateLimitResponse:
        """Forget what a key has used."""
        await self._limiter.reset(
            messages.policy_name(request.policy, "policy"), messages.limit_key(request.key, "key")
        )
        return pb.ResetRateLimitResponse()

    async def ListPolicies(
        self, request: pb.ListPoliciesRequest, _context: Context
    ) -> pb.ListPoliciesResponse:
        """List the policies by name."""
        size = convert.page_size(request.page_size)
        after = request.page_token
        if after:
            try:
                messages.policy_name(after, "page_token")
            except FieldInvalid:
                raise FieldInvalid("page_token", "is not a token of this list") from None
        rest = [policy for policy in self._limiter.policies() if policy.name > after]
        page = rest[:size]
        return pb.ListPoliciesResponse(
            policies=messages.policy_messages(page),
            next_page_token=page[-1].name if len(rest) > size else "",
        )
