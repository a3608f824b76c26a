"""Owns the RPC of AuthService that verifies a second factor."""

from functools import partial

from authsvc.core.factors.proofs import PasskeyAssertion, RecoveryCode, SecondFactor, TotpCode
from authsvc.errors import FieldInvalid
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.rpc.topic import Topic
from authsvc.v1 import auth_service_pb2 as pb

_MAX_TOKEN = 8_192


class MfaRpcs(Topic):
    """The second step of a login."""

    async def VerifyMfa(
        self, request: pb.VerifyMfaRequest, _context: Context
    ) -> pb.VerifyMfaResponse:
        """Complete a login with a second factor."""
        verify = partial(
            self._use.mfa_verification.verify,
            current_call(),
            convert.text(request.mfa_token, "mfa_token", _MAX_TOKEN, required=True),
            _factor(request),
            convert.client_context(request.client),
            trust_device=request.trust_device,
        )
        tokens = await self._use.logins.run_second_step(verify)
        return pb.VerifyMfaResponse(tokens=convert.tokens_message(tokens))


def _factor(request: pb.VerifyMfaRequest) -> SecondFactor:
    match request.WhichOneof("factor"):
        case "totp_code":
            code = convert.code(request.totp_code, "totp_code")
            return TotpCode(code)
        case "recovery_code":
            code = convert.code(request.recovery_code, "recovery_code")
            return RecoveryCode(code)
        case "passkey_assertion":
            return PasskeyAssertion(
                convert.credential_json(request.passkey_assertion, "passkey_assertion")
            )
    raise FieldInvalid("factor", "must be set")
