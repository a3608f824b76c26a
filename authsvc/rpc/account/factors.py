"""Owns the handlers of AccountService about second factors, but for passkeys' registration."""

from authsvc.models.ids import FactorId
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call, current_claims
from authsvc.rpc.login_messages import enrollment_message
from authsvc.rpc.use_cases import AccountUseCases
from authsvc.store.factors import Factor
from authsvc.v1 import account_service_pb2 as pb

_MAX_NAME = 64
_MAX_CODE = 64


class FactorRpcs:
    """The RPCs about the user's second factors."""

    _use: AccountUseCases

    async def ListFactors(
        self, _request: pb.ListFactorsRequest, _context: Context
    ) -> pb.ListFactorsResponse:
        """Return the factors that count."""
        found, recovery_codes_left = await self._use.factors.own.list(current_claims().subject)
        return pb.ListFactorsResponse(
            factors=map(factor_message, found), recovery_codes_left=recovery_codes_left
        )

    async def EnrollTotp(
        self, request: pb.EnrollTotpRequest, _context: Context
    ) -> pb.EnrollTotpResponse:
        """Start the enrolment of an authenticator app."""
        name = convert.text(request.name, "name", _MAX_NAME)
        enrollment = await self._use.factors.totp.enroll(current_claims(), name)
        return pb.EnrollTotpResponse(enrollment=enrollment_message(enrollment))

    async def ConfirmTotp(
        self, request: pb.ConfirmTotpRequest, _context: Context
    ) -> pb.ConfirmTotpResponse:
        """Complete the enrolment of an authenticator app."""
        codes = await self._use.factors.totp.confirm(
            current_call(),
            current_claims(),
            _factor_id(request.factor_id),
            convert.text(request.code, "code", _MAX_CODE, required=True),
            convert.client_context(request.client),
        )
        return pb.ConfirmTotpResponse(recovery_codes=codes)

    async def RemoveFactor(
        self, request: pb.RemoveFactorRequest, _context: Context
    ) -> pb.RemoveFactorResponse:
        """Remove a factor."""
        factor_id = _factor_id(request.factor_id)
        await self._use.factors.own.remove(current_call(), current_claims(), factor_id)
        return pb.RemoveFactorResponse()

    async def GenerateRecoveryCodes(
        self, _request: pb.GenerateRecoveryCodesRequest, _context: Context
    ) -> pb.GenerateRecoveryCodesResponse:
        """Make ten new recovery codes."""
        codes = await self._use.factors.own.generate_recovery_codes(
            current_call(), current_claims()
        )
        return pb.GenerateRecoveryCodesResponse(recovery_codes=codes)


def factor_message(factor: Factor) -> pb.Factor:
    """Return a factor without its secret."""
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
