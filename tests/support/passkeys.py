"""A fixture for passkeys: two independent authenticators, and the calls that use them."""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import cbor2
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


_CERTIFICATES = [bytes([number]) * 1_000 for number in range(3)]
_SIGNED = {"alg": -7, "sig": bytes(72)}
_TPM = {
    "ver": "2.0",
    "alg": -65_535,
    "x5c": _CERTIFICATES,
    "sig": bytes(256),
    "certInfo": bytes(161),
    "pubArea": bytes(310),
}
# Attestation statements of every registered format (and one of none) in form, without a valid
# signature.
STATEMENTS: dict[str, tuple[str, Any]] = {
    "none": ("none", {}),
    "self": ("packed", _SIGNED),
    "packed": ("packed", _SIGNED | {"x5c": _CERTIFICATES}),
    "tpm": ("tpm", _TPM),
    "android-key": ("android-key", _SIGNED | {"x5c": _CERTIFICATES}),
    "android-safetynet": ("android-safetynet", {"ver": "222", "response": bytes(5_000)}),
    "fido-u2f": ("fido-u2f", {"sig": bytes(72), "x5c": _CERTIFICATES[:1]}),
    "apple": ("apple", {"x5c": _CERTIFICATES}),
    "compound": (
        "compound",
        [{"fmt": "tpm", "attStmt": _TPM}, {"fmt": "packed", "attStmt": _SIGNED}],
    ),
    "unregistered": ("future-format", {"ver": 1, "proof": [b"x", {"a": None}]}),
}


def state(credential: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a new passkey with the attestation statement of this name."""
    attestation = cbor2.loads(decode(credential["response"]["attestationObject"]))
    attestation["fmt"], attestation["attStmt"] = STATEMENTS[name]
    stated = encode(cbor2.dumps(attestation))
    return credential | {"response": credential["response"] | {"attestationObject": stated}}


def text(credential: Credential) -> str:
    """Return a credential as it is sent to the service."""
    return credential if isinstance(credential, str) else json.dumps(credential)


def bearer(tokens: Tokens) -> tuple[tuple[str, str], ...]:
    """Return the metadata for calls on behalf of the tokens' user."""
    return (("authorization", f"Bearer {tokens.access_token}"),)


async def begin_registration(
    service: Service, tokens: Tokens, *, conditional: bool = False
) -> BeginPasskeyRegistrationResponse:
    """Request the options to create a passkey."""
    return await service.account().BeginPasskeyRegistration(
        BeginPasskeyRegistrationRequest(conditional=conditional), metadata=bearer(tokens)
    )


async def finish_registration(
    service: Service, tokens: Tokens, challenge_id: str, credential: Credential, name: str = ""
) -> FinishPasskeyRegistrationResponse:
    """Send the created passkey."""
    request = FinishPasskeyRegistrationRequest(
        challenge_id=challenge_id, credential_json=text(credential), name=name
    )
    return await service.account().FinishPasskeyRegistration(request, metadata=bearer(tokens))


async def register(
    service: Service, tokens: Tokens, device: Device, name: str = ""
) -> FinishPasskeyRegistrationResponse:
    """Create a passkey and register it."""
    begun = await begin_registration(service, tokens)
    credential = device.create(begun.options_json)
    return await finish_registration(service, tokens, begun.challenge_id, credential, name)


async def begin_login(
    service: Service, email: str = "", **client: str
) -> BeginPasskeyLoginResponse:
    """Request the options for an assertion."""
    return await service.auth().BeginPasskeyLogin(
        BeginPasskeyLoginRequest(email=email, client=ClientContext(**client))
    )


async def finish_login(
    service: Service, challenge_id: str, assertion: Credential, **client: str
) -> Tokens:
    """Send the assertion."""
    request = LoginWithPasskeyRequest(
        challenge_id=challenge_id, assertion_json=text(assertion), client=ClientContext(**client)
    )
    return (await service.auth().LoginWithPasskey(request)).tokens


async def login(service: Service, device: Device, email: str = "") -> Tokens:
    """Log in by passkey alone."""
    begun = await begin_login(service, email)
    return await finish_login(service, begun.challenge_id, device.get(begun.options_json))


async def new_holder(service: Service, email: str, device: Device) -> Tokens:
    """Create an account with a passkey; return the tokens of its login by password."""
    tokens = await service.proved_session(email)
    await register(service, tokens, device)
    return tokens


def allowed(options_json: str) -> list[str]:
    """Return the ids of the passkeys that the options allow."""
    return [one["id"] for one in json.loads(options_json)["allowCredentials"]]
