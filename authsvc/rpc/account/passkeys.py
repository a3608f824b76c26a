"""Owns the RPCs of AccountService that register passkeys."""

from authsvc.rpc import Context, convert
from authsvc.rpc.account.messages import passkey_signals
from authsvc.rpc.call_context import current_call, current_claims
from authsvc.rpc.topic import Topic
from authsvc.v1 import account_service_pb2 as pb


class PasskeyRegistrationRpcs(Topic):
    """The registration of a user's own passkeys."""

    async def BeginPasskeyRegistration(
        self, request: pb.BeginPasskeyRegistrationRequest, _context: Context
    ) -> pb.BeginPasskeyRegistrationResponse:
        """Return the options for creating a passkey on the user's device."""
        begun = await self._use.passkey_registration_start.begin(
            current_claims(), conditional=request.conditional
        )
        return pb.BeginPasskeyRegistrationResponse(
            challenge_id=str(begun.challenge_id), options_json=begun.options
        )

    async def FinishPasskeyRegistration(
        self, request: pb.FinishPasskeyRegistrationRequest, _context: Context
    ) -> pb.FinishPasskeyRegistrationResponse:
        """Verify the passkey that the user's device created, and register it."""
        registered = await self._use.passkey_registration.finish(
            current_call(),
            current_claims(),
            convert.uuid(request.challenge_id, "challenge_id"),
            convert.credential_json(request.credential_json, "credential_json"),
            convert.label(request.name),
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
            passkey_signals=passkey_signals(registered.signals),
        )
