"""Owns the handlers of AccountService: a user's own account, by that user's access token."""

from authsvc.rpc import Context
from authsvc.rpc.account.api_keys import ApiKeyRpcs
from authsvc.rpc.account.email_change import EmailChangeRpcs
from authsvc.rpc.account.factors import FactorRpcs
from authsvc.rpc.account.federation import IdentityRpcs
from authsvc.rpc.account.messages import account_message, display_name
from authsvc.rpc.account.own_data import DataRpcs
from authsvc.rpc.account.passkeys import PasskeyRegistrationRpcs
from authsvc.rpc.account.password_change import PasswordRpcs
from authsvc.rpc.call_context import current_call, current_claims
from authsvc.rpc.use_cases import AccountUseCases
from authsvc.v1 import account_service_pb2 as pb
from authsvc.v1 import account_service_pb2_grpc as rpc


class AccountHandler(
    ApiKeyRpcs,
    EmailChangeRpcs,
    FactorRpcs,
    IdentityRpcs,
    DataRpcs,
    PasswordRpcs,
    PasskeyRegistrationRpcs,
    rpc.AccountServiceServicer,
):
    """A user's own account."""

    def __init__(self, use: AccountUseCases) -> None:
        self._use = use

    async def GetAccount(
        self, _request: pb.GetAccountRequest, _context: Context
    ) -> pb.GetAccountResponse:
        """Return the account of the token's user."""
        user = await self._use.accounts.get(current_claims().subject)
        return pb.GetAccountResponse(account=account_message(user))

    async def UpdateAccount(
        self, request: pb.UpdateAccountRequest, _context: Context
    ) -> pb.UpdateAccountResponse:
        """Change the name to show for the token's user."""
        user = await self._use.accounts.rename(
            current_call(), current_claims(), display_name(request.display_name)
        )
        return pb.UpdateAccountResponse(account=account_message(user))
