"""Owns the handler of AuthService that takes a second factor."""

from authsvc.core.factors.proofs import PasskeyAssertion, RecoveryCode, SecondFactor, TotpCode
from authsvc.errors import FieldInvalid
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.rpc.use_cases import AuthUseCases
from authsvc.v1 import auth_service_pb2 as pb

_MAX_TOKEN = 8_192
_MAX_CODE = 64
_MAX_ASSERTION = 16_384


class MfaRpcs:
    """The RPC that completes a login with a second factor."""

    _use: AuthUseCases

    async def VerifyMfa(
        self, request: pb.VerifyMfaRequest, _context: Context
    ) -> pb.VerifyMfaResponse:
        """Complete a login with a second factor."""
        tokens = await self._use.factors.verification.verify(
            current_call(),
            convert.text(request.mfa_token, "mfa_token", _MAX_TOKEN, required=True),
            _factor(request),
            convert.client_context(request.client),
            trust_device=request.trust_device,
        )
        return pb.VerifyMfaResponse(tokens=convert.tokens_message(tokens))


def _factor(request: pb.VerifyMfaRequest) -> SecondFactor:
    match request.WhichOneof("factor"):
        case "totp_code":
            code = convert.text(request.totp_code, "totp_code", _MAX_CODE, required=True)
            return TotpCode(code)
        case "recovery_code":
            code = convert.text(request.recovery_code, "recovery_code", _MAX_CODE, required=True)
            return RecoveryCode(code)
        case "passkey_assertion":
            return PasskeyAssertion(
                convert.text(
                    request.passkey_assertion, "passkey_assertion", _MAX_ASSERTION, required=True
                )
            )
    raise FieldInvalid("factor", "must be set")
