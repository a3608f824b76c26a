"""Owns the chapter about second factors: an app is enrolled, used, guessed, lost and removed."""

import secrets
import time

import pyotp

from authsvc.cli.demo.tour import Tour, bearer, new_email
from authsvc.v1 import account_service_pb2, auth_service_pb2, common_pb2


async def second_factors(tour: Tour) -> None:
    """Show how a password alone stops being enough."""
    email, password = new_email("alan"), f"Enigma-Bombe-{secrets.token_hex(4)}"
    tokens = await _register(tour, email, password)
    app, factor_id, recovery_codes = await _enroll(tour, tokens)

    tour.title("From now on his password alone does not open a session")
    challenge = (await tour.login(email, password)).mfa
    tour.say("asked for one of", ", ".join(challenge.methods))
    wrong = f"{(int(app.now()) + 1) % 10**6:06}"
    await tour.rejected("a wrong code", _verify(tour, challenge, totp_code=wrong))
    code = app.at(int(time.time()), counter_offset=1)
    verified = await _verify(tour, challenge, totp_code=code, trust_device=True)
    tour.say("session", verified.tokens.session_id)

    tour.title("Somebody has looked over his shoulder")
    device, tour.client.device_id = tour.client.device_id, secrets.token_hex(8)
    challenge = (await tour.login(email, password)).mfa
    await tour.rejected("the same code again", _verify(tour, challenge, totp_code=code))

    tour.title("He has lost his phone: a recovery code works once")
    await _verify(tour, challenge, recovery_code=recovery_codes[0])
    tour.say("recovery codes left", await _recovery_codes_left(tour, tokens))
    challenge = (await tour.login(email, password)).mfa
    again = _verify(tour, challenge, recovery_code=recovery_codes[0])
    await tour.rejected("the same recovery code again", again)

    tour.title("His trusted device needs no second factor until one is removed")
    tour.client.device_id = device
    tour.say("the password alone gives", (await tour.login(email, password)).WhichOneof("result"))
    await tour.account().RemoveFactor(
        account_service_pb2.RemoveFactorRequest(factor_id=factor_id), metadata=bearer(tokens)
    )
    tour.say("the app is removed; recovery codes left", await _recovery_codes_left(tour, tokens))


async def _register(tour: Tour, email: str, password: str) -> common_pb2.Tokens:
    tour.title("Alan has to verify his address before he can enrol a second factor")
    registered = await tour.register_for_code(email, password, "Alan")
    tokens = (await tour.login(email, password)).tokens
    request = account_service_pb2.EnrollTotpRequest(name="Phone")
    early = tour.account().EnrollTotp(request, metadata=bearer(tokens))
    await tour.rejected("an app before the address is verified", early)
    await tour.verify(email, registered)
    tour.say("his address", "verified")
    return tokens


async def _enroll(tour: Tour, tokens: common_pb2.Tokens) -> tuple[pyotp.TOTP, str, list[str]]:
    tour.title("Alan enrols an authenticator app")
    metadata = bearer(tokens)
    enrolled = await tour.account().EnrollTotp(
        account_service_pb2.EnrollTotpRequest(name="Phone"), metadata=metadata
    )
    tour.say("the URI to scan", enrolled.enrollment.otpauth_uri.split("?")[0])
    app = pyotp.TOTP(enrolled.enrollment.secret)
    request = account_service_pb2.ConfirmTotpRequest(
        factor_id=enrolled.enrollment.factor_id, code=app.now(), client=tour.client
    )
    confirmed = await tour.account().ConfirmTotp(request, metadata=metadata)
    tour.say("it is enrolled; recovery codes", len(confirmed.recovery_codes))
    return app, request.factor_id, list(confirmed.recovery_codes)


async def _verify(
    tour: Tour,
    challenge: common_pb2.MfaChallenge,
    *,
    trust_device: bool = False,
    **factor: str,
) -> auth_service_pb2.VerifyMfaResponse:
    request = auth_service_pb2.VerifyMfaRequest(
        mfa_token=challenge.mfa_token, client=tour.client, trust_device=trust_device
    )
    for name, value in factor.items():
        setattr(request, name, value)
    return await tour.auth().VerifyMfa(request)


async def _recovery_codes_left(tour: Tour, tokens: common_pb2.Tokens) -> int:
    request = account_service_pb2.ListFactorsRequest()
    answer = await tour.account().ListFactors(request, metadata=bearer(tokens))
    return answer.recovery_codes_left
