"""Owns the RPC of AuthService that creates accounts."""

from authsvc.core.accounts.accounts import Registration
from authsvc.models.incidents import LoginMethod
from authsvc.rpc import Context, convert
from authsvc.rpc.account.messages import display_name
from authsvc.rpc.call_context import current_call
from authsvc.rpc.login_messages import delivery, returned_code
from authsvc.rpc.topic import Topic
from authsvc.v1 import auth_service_pb2 as pb


class RegistrationRpcs(Topic):
    """The registration of accounts."""

    async def Register(self, request: pb.RegisterRequest, _context: Context) -> pb.RegisterResponse:
        """Create an account with an e-mail address and a password."""
        requested = delivery(request.delivery)
        registration = Registration(
            email=convert.email(request.email),
            password=convert.password(request.password),
            display_name=display_name(request.display_name),
            client=convert.client_context(request.client),
            delivery=requested,
        )
        await self._use.login_freezes.require_open(LoginMethod.REGISTRATION, registration.client)
        registered = await self._use.accounts.register(current_call(), registration)
        return pb.RegisterResponse(
            user_id=str(registered.user_id),
            code=returned_code(registered.code, requested),
            registration_token=registered.token,
        )
