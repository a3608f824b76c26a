"""Owns the RPCs of AccountService about second factors, except the registration of passkeys."""

from authsvc.models.factors import Factor
from authsvc.models.ids import FactorId
from authsvc.rpc import Context, convert
from authsvc.rpc.account.messages import passkey_signals
from authsvc.rpc.call_context import current_call, current_claims
from authsvc.rpc.login_messages import enrollment_message
from authsvc.rpc.topic import Topic
from authsvc.v1 import account_service_pb2 as pb


class FactorRpcs(Topic):
    """A user's second factors."""

    async def ListFactors(
        self, _request: pb.ListFactorsRequest, _context: Context
    ) -> pb.ListFactorsResponse:
        """Return the user's active factors."""
        user_id = current_claims().subject
        found, recovery_codes_left = await self._use.factors.list(user_id)
        return pb.ListFactorsResponse(
            factors=map(factor_message, found),
            recovery_codes_left=recovery_codes_left,
            passkey_signals=passkey_signals(await self._use.factors.signals(user_id)),
        )

    async def EnrollTotp(
        self, request: pb.EnrollTotpRequest, _context: Context
    ) -> pb.EnrollTotpResponse:
        """Start the enrollment of an authenticator app."""
        name = convert.label(request.name)
        enrollment = await self._use.totp_enrollments.enroll(current_claims(), name)
        return pb.EnrollTotpResponse(enrollment=enrollment_message(enrollment))

    async def ConfirmTotp(
        self, request: pb.ConfirmTotpRequest, _context: Context
    ) -> pb.ConfirmTotpResponse:
        """Complete the enrollment of an authenticator app."""
        codes = await self._use.totp_enrollments.confirm(
            current_call(),
            current_claims(),
            _factor_id(request.factor_id),
            convert.code(request.code),
            convert.client_context(request.client),
        )
        return pb.ConfirmTotpResponse(recovery_codes=codes)

    async def RemoveFactor(
        self, request: pb.RemoveFactorRequest, _context: Context
    ) -> pb.RemoveFactorResponse:
        """Remove a factor."""
        factor_id = _factor_id(request.factor_id)
        signals = await self._use.factors.remove(current_call(), current_claims(), factor_id)
        return pb.RemoveFactorResponse(passkey_signals=passkey_signals(signals))

    async def GenerateRecoveryCodes(
        self, _request: pb.GenerateRecoveryCodesRequest, _context: Context
    ) -> pb.GenerateRecoveryCodesResponse:
        """Generate ten new recovery codes."""
        codes = await self._use.factors.generate_recovery_codes(current_call(), current_claims())
        return pb.GenerateRecoveryCodesResponse(recovery_codes=codes)


def factor_message(factor: Factor) -> pb.Factor:
    """Return a factor as a message, without its secret."""
    message = pb.Factor(
        factor_id=str(factor.factor_id),
        kind=factor.kind.value,
        name=factor.name,
        create_time=convert.timestamp(factor.create_time),
    )
    if factor.last_use_time is not None:
        message.last_use_time.CopyFrom(convert.timestamp(factor.last_use_time))
    return message


def _factor_id(value: str) -> FactorId:
    return FactorId(convert.uuid(value, "factor_id"))
