"""Owns the handlers of AuthService about one-time codes."""

from authsvc.core.codes.one_time_codes import IssuedCode, Purpose
from authsvc.models.calls import ClientContext
from authsvc.models.messages import Delivery
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.rpc.login_messages import delivery, fill_login, returned_code
from authsvc.rpc.use_cases import AuthUseCases
from authsvc.v1 import auth_service_pb2 as pb

_MAX_EMAIL = 254
_MAX_CODE = 64
_MAX_PASSWORD = 1_024


class CodeRpcs:
    """The RPCs by which codes are asked for and used."""

    _use: AuthUseCases

    async def VerifyEmail(
        self, request: pb.VerifyEmailRequest, _context: Context
    ) -> pb.VerifyEmailResponse:
        """Prove that an address belongs to its account's user."""
        await self._use.codes.verification.verify(
            current_call(),
            convert.text(request.email, "email", _MAX_EMAIL, required=True),
            convert.text(request.code, "code", _MAX_CODE, required=True),
            convert.client_context(request.client),
        )
        return pb.VerifyEmailResponse()

    async def ResendVerification(
        self, request: pb.ResendVerificationRequest, _context: Context
    ) -> pb.ResendVerificationResponse:
        """Make a new code for VerifyEmail."""
        wanted, issued = await self._issue(Purpose.VERIFY_EMAIL, request)
        return pb.ResendVerificationResponse(code=returned_code(issued.code, wanted))

    async def RequestLoginCode(
        self, request: pb.RequestLoginCodeRequest, _context: Context
    ) -> pb.RequestLoginCodeResponse:
        """Make a code to log in with."""
        wanted, issued = await self._issue(Purpose.LOGIN, request)
        return pb.RequestLoginCodeResponse(
            challenge_id=str(issued.code_id), code=returned_code(issued.code, wanted)
        )

    async def LoginWithCode(
        self, request: pb.LoginWithCodeRequest, _context: Context
    ) -> pb.LoginWithCodeResponse:
        """Check a code and go on as Login."""
        outcome = await self._use.codes.login.login(
            current_call(),
            convert.uuid(request.challenge_id, "challenge_id"),
            convert.text(request.code, "code", _MAX_CODE, required=True),
            convert.client_context(request.client),
        )
        response = pb.LoginWithCodeResponse()
        fill_login(response, outcome)
        return response

    async def RequestPasswordReset(
        self, request: pb.RequestPasswordResetRequest, _context: Context
    ) -> pb.RequestPasswordResetResponse:
        """Make a code to set a new password with."""
        wanted, issued = await self._issue(Purpose.RESET_PASSWORD, request)
        return pb.RequestPasswordResetResponse(code=returned_code(issued.code, wanted))

    async def ResetPassword(
        self, request: pb.ResetPasswordRequest, _context: Context
    ) -> pb.ResetPasswordResponse:
        """Set a new password."""
        await self._use.codes.recovery.reset(
            current_call(),
            convert.text(request.email, "email", _MAX_EMAIL, required=True),
            convert.text(request.code, "code", _MAX_CODE, required=True),
            convert.text(request.new_password, "new_password", _MAX_PASSWORD, required=True),
            convert.client_context(request.client),
        )
        return pb.ResetPasswordResponse()

    async def _issue(
        self,
        purpose: Purpose,
        request: (
            pb.ResendVerificationRequest
            | pb.RequestLoginCodeRequest
            | pb.RequestPasswordResetRequest
        ),
    ) -> tuple[Delivery, IssuedCode]:
        wanted: Delivery = delivery(request.delivery)
        client: ClientContext = convert.client_context(request.client)
        email = convert.text(request.email, "email", _MAX_EMAIL, required=True)
        requests = self._use.codes.requests
        return wanted, await requests.request(current_call(), purpose, email, wanted, client)
