"""Owns the messages common to all logins: their outcome, and the delivery of codes."""

from typing import TypeAlias

from authsvc.errors import CallerNotAllowed, FieldInvalid
from authsvc.models.calls import Role
from authsvc.models.factors import LoginOutcome, MfaChallenge, TotpEnrollment
from authsvc.models.messages import Delivery
from authsvc.rpc import convert
from authsvc.rpc.call_context import current_caller
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1 import common_pb2

LoginMessage: TypeAlias = (
    pb.LoginResponse
    | pb.LoginWithCodeResponse
    | pb.LoginWithPasskeyResponse
    | pb.CompleteOAuthResponse
)


def fill_login(message: LoginMessage, outcome: LoginOutcome) -> None:
    """Set a login's outcome in its response."""
    if isinstance(outcome, MfaChallenge):
        message.mfa.CopyFrom(_mfa_message(outcome))
    else:
        message.tokens.CopyFrom(convert.tokens_message(outcome))


def delivery(value: common_pb2.Delivery.ValueType) -> Delivery:
    """Return how to deliver a code.

    Raises:
        FieldInvalid: It is not a value of the enum.
        CallerNotAllowed: It is RETURN and the caller is not an issuer.
    """
    if value in {common_pb2.DELIVERY_UNSPECIFIED, common_pb2.DELIVERY_SEND}:
        return Delivery.SEND
    if value != common_pb2.DELIVERY_RETURN:
        raise FieldInvalid("delivery", "must be SEND or RETURN")
    if Role.ISSUER not in current_caller().roles:
        raise CallerNotAllowed
    return Delivery.RETURN


def returned_code(code: str, requested: Delivery) -> str:
    """Return the code for its field in a response: "" unless RETURN was requested."""
    return code if requested is Delivery.RETURN else ""


def enrollment_message(enrollment: TotpEnrollment) -> common_pb2.TotpEnrollment:
    """Return an enrollment, with the secret for the authenticator app, as a message."""
    return common_pb2.TotpEnrollment(
        factor_id=str(enrollment.factor_id),
        secret=enrollment.secret,
        otpauth_uri=enrollment.otpauth_uri,
    )


def _mfa_message(challenge: MfaChallenge) -> common_pb2.MfaChallenge:
    message = common_pb2.MfaChallenge(
        mfa_token=challenge.mfa_token,
        methods=challenge.methods,
        expire_time=convert.timestamp(challenge.expire_time),
        passkey_options_json=challenge.passkey_options,
    )
    if challenge.totp_enrollment is not None:
        message.totp_enrollment.CopyFrom(enrollment_message(challenge.totp_enrollment))
    return message
