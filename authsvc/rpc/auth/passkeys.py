"""Owns the RPCs of AuthService for logins by passkey."""

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
        begun = await self._use.passkey_login_start.begin(
            convert.email(request.email, required=False),
            convert.client_context(request.client),
        )
        return pb.BeginPasskeyLoginResponse(
            challenge_id=str(begun.challenge_id), options_json=begun.options
        )

    async def LoginWithPasskey(
        self, request: pb.LoginWithPasskeyRequest, _context: Context
    ) -> pb.LoginWithPasskeyResponse:
        """Verify a passkey's assertion, and create a session."""
        outcome = await self._use.passkey_login.log_in(
            current_call(),
            convert.uuid(request.challenge_id, "challenge_id"),
            convert.credential_json(request.assertion_json, "assertion_json"),
            convert.client_context(request.client),
        )
        response = pb.LoginWithPasskeyResponse()
        fill_login(response, outcome)
        return response
