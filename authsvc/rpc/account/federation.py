"""Owns the RPCs of AccountService about a user's identities at external providers."""

from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call, current_claims
from authsvc.rpc.topic import Topic
from authsvc.v1 import account_service_pb2 as pb


class IdentityRpcs(Topic):
    """A user's identities at external providers."""

    async def ListIdentities(
        self, _request: pb.ListIdentitiesRequest, _context: Context
    ) -> pb.ListIdentitiesResponse:
        """Return the identities of the token's user."""
        found = await self._use.identities.list(current_claims().subject)
        return pb.ListIdentitiesResponse(
            identities=[
                pb.Identity(
                    provider=identity.provider,
                    subject=identity.subject,
                    email=identity.email,
                    create_time=convert.timestamp(identity.create_time),
                    last_use_time=convert.timestamp(identity.last_use_time),
                )
                for identity in found
            ]
        )

    async def UnlinkIdentity(
        self, request: pb.UnlinkIdentityRequest, _context: Context
    ) -> pb.UnlinkIdentityResponse:
        """Unlink an identity of the token's user."""
        await self._use.identities.unlink(
            current_call(),
            current_claims(),
            convert.text(request.provider, "provider", 64, required=True),
            convert.text(request.subject, "subject", 256, required=True),
        )
        return pb.UnlinkIdentityResponse()
