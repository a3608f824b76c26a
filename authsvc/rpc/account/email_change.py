"""Owns the handlers of AccountService about the change of the user's e-mail address."""

from authsvc.rpc import Context, convert
from authsvc.rpc.account.messages import account_message
from authsvc.rpc.call_context import current_call, current_claims
from authsvc.rpc.login_messages import delivery, returned_code
from authsvc.rpc.use_cases import AccountUseCases
from authsvc.v1 import account_service_pb2 as pb

_MAX_EMAIL = 254
_MAX_CODE = 64


class EmailChangeRpcs:
    """The RPCs by which a user gets another address."""

    _use: AccountUseCases

    async def RequestEmailChange(
        self, request: pb.RequestEmailChangeRequest, _context: Context
    ) -> pb.RequestEmailChangeResponse:
        """Make a code for the new address."""
        wanted = delivery(request.delivery)
        issued = await self._use.email_change.request(
            current_call(),
            current_claims(),
            convert.text(request.new_email, "new_email", _MAX_EMAIL, required=True),
            wanted,
            convert.client_context(request.client),
        )
        return pb.RequestEmailChangeResponse(code=returned_code(issued.code, wanted))

    async def ConfirmEmailChange(
        self, request: pb.ConfirmEmailChangeRequest, _context: Context
    ) -> pb.ConfirmEmailChangeResponse:
        """Make the new address the account's."""
        user = await self._use.email_change.confirm(
            current_call(),
            current_claims(),
            convert.text(request.new_email, "new_email", _MAX_EMAIL, required=True),
            convert.text(request.code, "code", _MAX_CODE, required=True),
            convert.client_context(request.client),
        )
        return pb.ConfirmEmailChangeResponse(account=account_message(user))
