"""Owns the RPCs of AccountService that change the user's e-mail address."""

from authsvc.rpc import Context, convert
from authsvc.rpc.account.messages import account_message, passkey_signals
from authsvc.rpc.call_context import current_call, current_claims
from authsvc.rpc.login_messages import delivery, returned_code
from authsvc.rpc.topic import Topic
from authsvc.v1 import account_service_pb2 as pb


class EmailChangeRpcs(Topic):
    """The change of a user's e-mail address."""

    async def RequestEmailChange(
        self, request: pb.RequestEmailChangeRequest, _context: Context
    ) -> pb.RequestEmailChangeResponse:
        """Issue a code for the new address."""
        requested = delivery(request.delivery)
        issued = await self._use.email_change.request(
            current_call(),
            current_claims(),
            convert.email(request.new_email, "new_email"),
            requested,
            convert.client_context(request.client),
        )
        return pb.RequestEmailChangeResponse(code=returned_code(issued.code, requested))

    async def ConfirmEmailChange(
        self, request: pb.ConfirmEmailChangeRequest, _context: Context
    ) -> pb.ConfirmEmailChangeResponse:
        """Replace the account's address with the new one."""
        user = await self._use.email_change.confirm(
            current_call(),
            current_claims(),
            convert.email(request.new_email, "new_email"),
            convert.code(request.code),
            convert.client_context(request.client),
        )
        return pb.ConfirmEmailChangeResponse(
            account=account_message(user),
            passkey_signals=passkey_signals(self._use.passkey_signalling.changed_details(user)),
        )
