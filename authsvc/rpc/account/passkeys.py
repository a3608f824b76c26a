"""Owns the handlers of AccountService for passkeys."""

from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call, current_claims
from authsvc.rpc.use_cases import AccountUseCases
from authsvc.v1 import account_service_pb2 as pb

_MAX_CREDENTIAL = 16_384
_MAX_NAME = 64


class PasskeyRegistrationRpcs:
    """The registration of a user's own passkeys."""

    _use: AccountUseCases

    async def BeginPasskeyRegistration(
        self, _request: pb.BeginPasskeyRegistrationRequest, _context: Context
    ) -> pb.BeginPasskeyRegistrationResponse:
        """Return what the user's device is to create."""
        begun = await self._use.passkeys.begin_registration.begin(current_claims())
        return pb.BeginPasskeyRegistrationResponse(
            challenge_id=str(begun.challenge_id), options_json=begun.options
        )

    async def FinishPasskeyRegistration(
        self, request: pb.FinishPasskeyRegistrationRequest, _context: Context
    ) -> pb.FinishPasskeyRegistrationResponse:
        """Check what the user's device created, and let it count."""
        registered = await self._use.passkeys.finish_registration.finish(
            current_call(),
            current_claims(),
            convert.uuid(request.challenge_id, "challenge_id"),
            convert.text(
                request.credential_json, "credential_json", _MAX_CREDENTIAL, required=True
            ),
            convert.text(request.name, "name", _MAX_NAME),
        )
        factor = registered.factor
        return pb.FinishPasskeyRegistrationResponse(
            factor=pb.Factor(
                factor_id=str(factor.factor_id),
                kind=factor.kind.value,
                name=factor.name,
                create_time=convert.timestamp(factor.create_time),
            ),
            recovery_codes=registered.recovery_codes,
        )
