"""Owns the chapter about passkeys: registration, login, use as a second factor, attacks."""

import json
import secrets

from authsvc.cli.demo.tour import Tour, bearer, new_email
from authsvc.dev.authenticator import Authenticator
from authsvc.v1 import account_service_pb2, auth_service_pb2, common_pb2

_ORIGIN = "http://localhost:8080"


async def passkeys(tour: Tour) -> None:
    """Show how users log in without a password."""
    email, password = new_email("grace"), f"Compiler-Nano-{secrets.token_hex(4)}"
    await tour.verify(email, await tour.register_for_code(email, password, "Grace"))
    tokens = (await tour.login(email, password)).tokens
    phone = Authenticator(_ORIGIN)
    await _register(tour, tokens, phone)

    tour.title("She logs in with it: no address, no password, two factors in one")
    begun = await _begin(tour)
    request = _answer(tour, begun, phone)
    answer = await tour.auth().LoginWithPasskey(request)
    tour.say("session", answer.tokens.session_id)
    await tour.rejected("the same assertion again", tour.auth().LoginWithPasskey(request))

    tour.title("From now on her password is only one of two factors")
    challenge = (await tour.login(email, password)).mfa
    tour.say("asked for one of", ", ".join(challenge.methods))
    verified = await tour.auth().VerifyMfa(
        auth_service_pb2.VerifyMfaRequest(
            mfa_token=challenge.mfa_token,
            passkey_assertion=json.dumps(phone.get(challenge.passkey_options_json)),
            client=tour.client,
        )
    )
    tour.say("session", verified.tokens.session_id)
    await _attack(tour, email, phone)


async def _register(tour: Tour, tokens: common_pb2.Tokens, phone: Authenticator) -> None:
    tour.title("Grace registers a passkey")
    begun = await tour.account().BeginPasskeyRegistration(
        account_service_pb2.BeginPasskeyRegistrationRequest(), metadata=bearer(tokens)
    )
    request = account_service_pb2.FinishPasskeyRegistrationRequest(
        challenge_id=begun.challenge_id,
        credential_json=json.dumps(phone.create(begun.options_json)),
        name="Phone",
    )
    registered = await tour.account().FinishPasskeyRegistration(request, metadata=bearer(tokens))
    tour.say(f"“{registered.factor.name}” is registered, id", registered.factor.factor_id)
    tour.say("recovery codes", len(registered.recovery_codes))


async def _attack(tour: Tour, email: str, phone: Authenticator) -> None:
    tour.title("A phishing page at another origin asks her phone for an assertion")
    begun = await _begin(tour, email)
    phishing = {"origin": "https://localhost.example"}
    request = _answer(tour, begun, phone, phishing)
    await tour.rejected("the assertion for that origin", tour.auth().LoginWithPasskey(request))

    tour.title("The answer does not reveal who has an account")
    nobody = await _begin(tour, new_email("nobody"))
    asked = json.loads(nobody.options_json)["allowCredentials"]
    tour.say("passkeys requested for an unknown address", len(asked))


async def _begin(tour: Tour, email: str = "") -> auth_service_pb2.BeginPasskeyLoginResponse:
    request = auth_service_pb2.BeginPasskeyLoginRequest(email=email, client=tour.client)
    return await tour.auth().BeginPasskeyLogin(request)


def _answer(
    tour: Tour,
    begun: auth_service_pb2.BeginPasskeyLoginResponse,
    phone: Authenticator,
    client_data: dict[str, str] | None = None,
) -> auth_service_pb2.LoginWithPasskeyRequest:
    assertion = phone.get(begun.options_json, client_data=client_data)
    return auth_service_pb2.LoginWithPasskeyRequest(
        challenge_id=begun.challenge_id, assertion_json=json.dumps(assertion), client=tour.client
    )
