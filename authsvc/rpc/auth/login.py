"""Owns the RPC of AuthService that logs users in by password."""

from functools import partial

from authsvc.models.incidents import LoginMethod
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.rpc.login_messages import fill_login
from authsvc.rpc.topic import Topic
from authsvc.v1 import auth_service_pb2 as pb


class PasswordLoginRpcs(Topic):
    """Logins by password."""

    async def Login(self, request: pb.LoginRequest, _context: Context) -> pb.LoginResponse:
        """Check an e-mail address and a password, and create a session."""
        email, password = convert.email(request.email), convert.password(request.password)
        client = convert.client_context(request.client)
        log_in = partial(self._use.password_login.log_in, current_call(), email, password, client)
        outcome = await self._use.logins.run(LoginMethod.PASSWORD, client, log_in)
        response = pb.LoginResponse()
        fill_login(response, outcome)
        return response
