"""Passkeys as they are tested: two independent authenticators, and the calls that they are for."""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from soft_webauthn import SoftWebauthnDevice

from authsvc.dev.authenticator import Authenticator, decode, encode
from authsvc.v1.account_service_pb2 import (
    BeginPasskeyRegistrationRequest,
    BeginPasskeyRegistrationResponse,
    FinishPasskeyRegistrationRequest,
    FinishPasskeyRegistrationResponse,
)
from authsvc.v1.auth_service_pb2 import (
    BeginPasskeyLoginRequest,
    BeginPasskeyLoginResponse,
    LoginWithPasskeyRequest,
)
from authsvc.v1.common_pb2 import ClientContext, Tokens
from tests.support.service import Service

ORIGIN = "http://localhost:8080"
NOBODY = "00000000-0000-7000-8000-00000000000a"

Credential: TypeAlias = Mapping[str, Any] | str


class SoftDevice:
    """soft-webauthn behind the interface of a browser; it never verifies its user."""

    def __init__(self, origin: str = ORIGIN) -> None:
        self.origin = origin
        self.device = SoftWebauthnDevice()

    def create(self, options_json: str) -> dict[str, Any]:
        options = json.loads(options_json)
        options["challenge"] = decode(options["challenge"])
        options["user"]["id"] = decode(options["user"]["id"])
        return _as_json(self.device.create({"publicKey": options}, self.origin))

    def get(self, options_json: str) -> dict[str, Any]:
        options = json.loads(options_json)
        options["challenge"] = decode(options["challenge"])
        return _as_json(self.device.get({"publicKey": options}, self.origin))


def _as_json(credential: dict[str, Any]) -> dict[str, Any]:
    raw_id = encode(credential["rawId"])
    response = {name: encode(value) for name, value in credential["response"].items()}
    return {"id": raw_id, "rawId": raw_id, "type": credential["type"], "response": response}


Device: TypeAlias = SoftDevice | Authenticator


def text(credential: Credential) -> str:
    """Return a credential as it is sent."""
    return credential if isinstance(credential, str) else json.dumps(credential)


def bearer(tokens: Tokens) -> tuple[tuple[str, str], ...]:
    """Return the metadata by which a call acts for the tokens' user."""
    return (("authorization", f"Bearer {tokens.access_token}"),)


async def begin_registration(service: Service, tokens: Tokens) -> BeginPasskeyRegistrationResponse:
    """Ask what a passkey is to be made of."""
    return await service.account().BeginPasskeyRegistration(
        BeginPasskeyRegistrationRequest(), metadata=bearer(tokens)
    )


async def finish_registration(
    service: Service, tokens: Tokens, challenge_id: str, credential: Credential, name: str = ""
) -> FinishPasskeyRegistrationResponse:
    """Hand over what was made."""
    request = FinishPasskeyRegistrationRequest(
        challenge_id=challenge_id, credential_json=text(credential), name=name
    )
    return await service.account().FinishPasskeyRegistration(request, metadata=bearer(tokens))


async def register(
    service: Service, tokens: Tokens, device: Device, name: str = ""
) -> FinishPasskeyRegistrationResponse:
    """Make a passkey and register it."""
    begun = await begin_registration(service, tokens)
    credential = device.create(begun.options_json)
    return await finish_registration(service, tokens, begun.challenge_id, credential, name)


async def begin_login(
    service: Service, email: str = "", **client: str
) -> BeginPasskeyLoginResponse:
    """Ask what a passkey is to sign."""
    return await service.auth().BeginPasskeyLogin(
        BeginPasskeyLoginRequest(email=email, client=ClientContext(**client))
    )


async def finish_login(
    service: Service, challenge_id: str, assertion: Credential, **client: str
) -> Tokens:
    """Hand over what was signed."""
    request = LoginWithPasskeyRequest(
        challenge_id=challenge_id, assertion_json=text(assertion), client=ClientContext(**client)
    )
    return (await service.auth().LoginWithPasskey(request)).tokens


async def login(service: Service, device: Device, email: str = "") -> Tokens:
    """Log in by passkey alone."""
    begun = await begin_login(service, email)
    return await finish_login(service, begun.challenge_id, device.get(begun.options_json))


async def new_holder(service: Service, email: str, device: Device) -> Tokens:
    """Make an account with a passkey; return the tokens of its login by password."""
    tokens = await service.proved_session(email)
    await register(service, tokens, device)
    return tokens


def allowed(options_json: str) -> list[str]:
    """Return the ids of the passkeys that are asked for."""
    return [one["id"] for one in json.loads(options_json)["allowCredentials"]]
