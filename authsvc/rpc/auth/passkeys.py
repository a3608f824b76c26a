"""Owns the handlers of AuthService for passkeys."""

from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.rpc.login_messages import fill_login
from authsvc.rpc.use_cases import AuthUseCases
from authsvc.v1 import auth_service_pb2 as pb

_MAX_EMAIL = 254
_MAX_CREDENTIAL = 16_384


class PasskeyRpcs:
    """Logins by passkey."""

    _use: AuthUseCases

    async def BeginPasskeyLogin(
        self, request: pb.BeginPasskeyLoginRequest, _context: Context
    ) -> pb.BeginPasskeyLoginResponse:
        """Return what a passkey is to sign."""
        begun = await self._use.passkeys.begin_login.begin(
            convert.text(request.email, "email", _MAX_EMAIL),
            convert.client_context(request.client),
        )
        return pb.BeginPasskeyLoginResponse(
            challenge_id=str(begun.challenge_id), options_json=begun.options
        )

    async def LoginWithPasskey(
        self, request: pb.LoginWithPasskeyRequest, _context: Context
    ) -> pb.LoginWithPasskeyResponse:
        """Check what a passkey signed and create a session."""
        outcome = await self._use.passkeys.login.login(
            current_call(),
            convert.uuid(request.challenge_id, "challenge_id"),
            convert.text(request.assertion_json, "assertion_json", _MAX_CREDENTIAL, required=True),
            convert.client_context(request.client),
        )
        response = pb.LoginWithPasskeyResponse()
        fill_login(response, outcome)
        return response
