"""Owns the RPCs of AccountService about the account itself."""

from authsvc.rpc import Context
from authsvc.rpc.account.messages import account_message, display_name, passkey_signals
from authsvc.rpc.call_context import current_call, current_claims
from authsvc.rpc.topic import Topic
from authsvc.v1 import account_service_pb2 as pb


class AccountRpcs(Topic):
    """The account of the token's user."""

    async def GetAccount(
        self, _request: pb.GetAccountRequest, _context: Context
    ) -> pb.GetAccountResponse:
        """Return the account of the token's user."""
        user = await self._use.accounts.get(current_claims().subject)
        return pb.GetAccountResponse(account=account_message(user))

    async def UpdateAccount(
        self, request: pb.UpdateAccountRequest, _context: Context
    ) -> pb.UpdateAccountResponse:
        """Change the display name of the token's user."""
        user = await self._use.accounts.rename(
            current_call(), current_claims(), display_name(request.display_name)
        )
        return pb.UpdateAccountResponse(
            account=account_message(user),
            passkey_signals=passkey_signals(self._use.passkey_signalling.changed_details(user)),
        )
