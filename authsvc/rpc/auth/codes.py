"""Owns the RPCs of AuthService about one-time codes."""

from functools import partial

from authsvc.core.accounts.owner_proofs import (
    AccessToken,
    OwnerProof,
    Password,
    RegistrationToken,
)
from authsvc.core.codes.one_time_codes import IssuedCode, Purpose
from authsvc.models.calls import ClientContext
from authsvc.models.incidents import LoginMethod
from authsvc.models.messages import Delivery
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.rpc.login_messages import delivery, fill_login, returned_code
from authsvc.rpc.topic import Topic
from authsvc.v1 import auth_service_pb2 as pb

_MAX_TOKEN = 8_192
# What a code is the beginning of.
_METHODS = {
    Purpose.LOGIN: LoginMethod.CODE,
    Purpose.RESET_PASSWORD: LoginMethod.PASSWORD_RESET,
}


class CodeRpcs(Topic):
    """The request and redemption of one-time codes."""

    async def VerifyEmail(
        self, request: pb.VerifyEmailRequest, _context: Context
    ) -> pb.VerifyEmailResponse:
        """Verify the account's address with a code sent to it."""
        revoked = await self._use.email_verification.verify(
            current_call(),
            convert.email(request.email),
            convert.code(request.code),
            convert.client_context(request.client),
            _owner_proof(request),
        )
        return pb.VerifyEmailResponse(
            credentials_removed=revoked is not None,
            revocation_cursor=convert.revocation_cursor(revoked),
        )

    async def ResendVerification(
        self, request: pb.ResendVerificationRequest, _context: Context
    ) -> pb.ResendVerificationResponse:
        """Issue a new code for VerifyEmail."""
        requested, issued = await self._issue(Purpose.VERIFY_EMAIL, request)
        return pb.ResendVerificationResponse(code=returned_code(issued.code, requested))

    async def RequestLoginCode(
        self, request: pb.RequestLoginCodeRequest, _context: Context
    ) -> pb.RequestLoginCodeResponse:
        """Issue a code to log in with."""
        requested, issued = await self._issue(Purpose.LOGIN, request)
        return pb.RequestLoginCodeResponse(
            challenge_id=str(issued.code_id), code=returned_code(issued.code, requested)
        )

    async def LoginWithCode(
        self, request: pb.LoginWithCodeRequest, _context: Context
    ) -> pb.LoginWithCodeResponse:
        """Check a login code, and complete the login as Login does."""
        challenge_id = convert.uuid(request.challenge_id, "challenge_id")
        code, client = convert.code(request.code), convert.client_context(request.client)
        log_in = partial(self._use.code_login.log_in, current_call(), challenge_id, code, client)
        outcome = await self._use.logins.run(LoginMethod.CODE, client, log_in)
        response = pb.LoginWithCodeResponse()
        fill_login(response, outcome)
        return response

    async def RequestPasswordReset(
        self, request: pb.RequestPasswordResetRequest, _context: Context
    ) -> pb.RequestPasswordResetResponse:
        """Issue a code to set a new password with."""
        requested, issued = await self._issue(Purpose.RESET_PASSWORD, request)
        return pb.RequestPasswordResetResponse(code=returned_code(issued.code, requested))

    async def ResetPassword(
        self, request: pb.ResetPasswordRequest, _context: Context
    ) -> pb.ResetPasswordResponse:
        """Set a new password with a code."""
        email, code = convert.email(request.email), convert.code(request.code)
        password = convert.password(request.new_password, "new_password")
        client = convert.client_context(request.client)
        await self._use.login_freezes.require_open(LoginMethod.PASSWORD_RESET, client)
        revoked = await self._use.password_reset.reset(
            current_call(), email, code, password, client
        )
        return pb.ResetPasswordResponse(revocation_cursor=convert.revocation_cursor(revoked))

    async def _issue(
        self,
        purpose: Purpose,
        request: (
            pb.ResendVerificationRequest
            | pb.RequestLoginCodeRequest
            | pb.RequestPasswordResetRequest
        ),
    ) -> tuple[Delivery, IssuedCode]:
        requested: Delivery = delivery(request.delivery)
        client: ClientContext = convert.client_context(request.client)
        email = convert.email(request.email)
        if purpose in _METHODS:
            await self._use.login_freezes.require_open(_METHODS[purpose], client)
        issued = await self._use.code_requests.request(
            current_call(), purpose, email, requested, client
        )
        return requested, issued


def _owner_proof(request: pb.VerifyEmailRequest) -> OwnerProof | None:
    """Return the proof, if any. An empty one is rejected: without one, credentials are removed."""
    match request.WhichOneof("proof"):
        case "registration_token":
            name = "registration_token"
            return RegistrationToken(
                convert.text(request.registration_token, name, _MAX_TOKEN, required=True)
            )
        case "access_token":
            return AccessToken(
                convert.text(request.access_token, "access_token", _MAX_TOKEN, required=True)
            )
        case "password":
            return Password(convert.password(request.password))
    return None
