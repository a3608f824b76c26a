"""Owns the handlers of AccountService: a user's own account, by that user's access token."""

from authsvc.errors import NotFound, bearer_invalid
from authsvc.rpc import Context, convert
from authsvc.rpc.inbound import current_claims
from authsvc.rpc.use_cases import AccountUseCases
from authsvc.v1 import account_service_pb2 as pb
from authsvc.v1 import account_service_pb2_grpc as rpc


class AccountHandler(rpc.AccountServiceServicer):
    """A user's own account."""

    def __init__(self, use: AccountUseCases) -> None:
        self._use = use

    async def GetAccount(
        self, _request: pb.GetAccountRequest, _context: Context
    ) -> pb.GetAccountResponse:
        """Return the account of the token's user."""
        try:
            user = await self._use.accounts.get(current_claims().subject)
        except NotFound:
            raise bearer_invalid() from None
        return pb.GetAccountResponse(
            account=pb.Account(
                user_id=str(user.user_id),
                email=user.email,
                display_name=user.display_name,
                roles=user.roles,
                create_time=convert.timestamp(user.create_time),
            )
        )
