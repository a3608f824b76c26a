"""Owns the RPCs of AuthService for logins by passkey."""

from functools import partial

from authsvc.models.incidents import LoginMethod
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.rpc.login_messages import fill_login
from authsvc.rpc.topic import Topic
from authsvc.v1 import auth_service_pb2 as pb


class PasskeyRpcs(Topic):
    """Logins by passkey."""

    async def BeginPasskeyLogin(
        self, request: pb.BeginPasskeyLoginRequest, _context: Context
    ) -> pb.BeginPasskeyLoginResponse:
        """Return a challenge for a passkey to sign."""
        email = convert.email(request.email, required=False)
        client = convert.client_context(request.client)
        await self._use.login_freezes.require_open(LoginMethod.PASSKEY, client)
        begun = await self._use.passkey_login_start.begin(email, client)
        return pb.BeginPasskeyLoginResponse(
            challenge_id=str(begun.challenge_id), options_json=begun.options
        )

    async def LoginWithPasskey(
        self, request: pb.LoginWithPasskeyRequest, _context: Context
    ) -> pb.LoginWithPasskeyResponse:
        """Verify a passkey's assertion, and create a session."""
        challenge_id = convert.uuid(request.challenge_id, "challenge_id")
        assertion = convert.credential_json(request.assertion_json, "assertion_json")
        client = convert.client_context(request.client)
        log_in = partial(
            self._use.passkey_login.log_in, current_call(), challenge_id, assertion, client
        )
        outcome = await self._use.logins.run(LoginMethod.PASSKEY, client, log_in)
        response = pb.LoginWithPasskeyResponse()
        fill_login(response, outcome)
        return response
