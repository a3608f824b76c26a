"""Owns the handler of RateLimitService: each RPC converts and calls the rate limiter."""

from authsvc.core.lib import paging
from authsvc.errors import FieldInvalid
from authsvc.rpc import Context, convert
from authsvc.rpc.rate_limit import messages
from authsvc.rpc.topic import Topic
from authsvc.v1 import rate_limit_service_pb2 as pb
from authsvc.v1 import rate_limit_service_pb2_grpc as rpc


class RateLimitHandler(Topic, rpc.RateLimitServiceServicer):
    """Rate limits that are shared by all replicas."""

    async def CheckRateLimit(
        self, request: pb.CheckRateLimitRequest, _context: Context
    ) -> pb.CheckRateLimitResponse:
        """Take all charges of a check, or none."""
        charges = messages.charges(request.charges)
        result = await self._use.rate_limiter.check(charges, dry_run=request.dry_run)
        return messages.check_response(result)

    async def BatchCheckRateLimits(
        self, request: pb.BatchCheckRateLimitsRequest, _context: Context
    ) -> pb.BatchCheckRateLimitsResponse:
        """Decide up to 1000 checks independently."""
        convert.batch_size(request.checks, "checks")
        slices = self._use.slices
        checks = await messages.checks(request.checks, slices)
        results = await self._use.rate_limiter.check_many(checks, slices)
        return await messages.batch_response(results, slices, compact=request.compact)

    async def GetRateLimit(
        self, request: pb.GetRateLimitRequest, _context: Context
    ) -> pb.GetRateLimitResponse:
        """Return a key's state without charging it."""
        verdict = await self._use.rate_limiter.get(
            messages.policy_name(request.policy, "policy"), messages.limit_key(request.key, "key")
        )
        response = pb.GetRateLimitResponse()
        messages.fill_verdict(response.verdict, verdict)
        return response

    async def ScreenRequest(
        self, request: pb.ScreenRequestRequest, _context: Context
    ) -> pb.ScreenRequestResponse:
        """Decide on a request by the address of its user."""
        if not request.ip:
            raise FieldInvalid("ip", "must not be empty")
        screened = await self._use.screening.screen(
            convert.ip_address(request.ip, "ip"), messages.policy_name(request.policy, "policy")
        )
        return messages.screen_response(screened)

    async def RefundRateLimit(
        self, request: pb.RefundRateLimitRequest, _context: Context
    ) -> pb.RefundRateLimitResponse:
        """Refund what an earlier check took."""
        verdict = await self._use.rate_limiter.refund(
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
        """Reset a key to unused."""
        await self._use.rate_limiter.reset(
            messages.policy_name(request.policy, "policy"), messages.limit_key(request.key, "key")
        )
        return pb.ResetRateLimitResponse()

    async def ListPolicies(
        self, request: pb.ListPoliciesRequest, _context: Context
    ) -> pb.ListPoliciesResponse:
        """List the policies by name."""
        size = paging.page_size(request.page_size)
        after = request.page_token
        if after:
            try:
                messages.policy_name(after, "page_token")
            except FieldInvalid:
                raise FieldInvalid("page_token", "is not a page token of this list") from None
        rest = [policy for policy in self._use.rate_limiter.policies() if policy.name > after]
        page, next_page_token = paging.cut(rest, size, lambda last: last.name)
        return pb.ListPoliciesResponse(
            policies=messages.policy_messages(page), next_page_token=next_page_token
        )
