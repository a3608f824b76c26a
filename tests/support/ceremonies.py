"""One relying party without a database: its options, and whether it accepts a response."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import cbor2

from authsvc.config import PasskeySettings
from authsvc.core.factors.relying_party import RelyingParty, parse_assertion
from authsvc.dev.authenticator import Authenticator, decode, encode
from authsvc.models.ids import UserId
from authsvc.models.users import User, UserStatus
from tests.support.passkeys import ORIGIN

PARTY = RelyingParty(PasskeySettings())
CHALLENGE = b"c" * 32
USER = User(
    UserId(uuid4()), "ada@example.test", "", (), UserStatus.ACTIVE, datetime(2026, 1, 1, tzinfo=UTC)
)


def creation_options() -> str:
    return PARTY.creation_options(CHALLENGE, USER, [])


def request_options() -> str:
    return PARTY.request_options(CHALLENGE, [], require_verification=True)


def is_taken(credential: Any) -> bool:
    return PARTY.check_attestation(json.dumps(credential), CHALLENGE) is not None


def is_signed(credential: Any, public_key: bytes, *, verified: bool = True) -> bool:
    assertion = parse_assertion(json.dumps(credential))
    if assertion is None:
        return False
    signed = PARTY.check_assertion(assertion, CHALLENGE, public_key, require_verification=verified)
    return signed is not None


def with_attestation(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return a new passkey whose attestation object was changed."""
    credential = Authenticator(ORIGIN).create(creation_options())
    attestation = cbor2.loads(decode(credential["response"]["attestationObject"]))
    change(attestation)
    credential["response"]["attestationObject"] = encode(cbor2.dumps(attestation))
    return credential


def update(changes: dict[str, Any], attestation: dict[str, Any]) -> None:
    attestation.update(changes)


def with_key(key: Any) -> dict[str, Any]:
    """Return a new passkey with this public key."""
    credential = Authenticator(ORIGIN).create(creation_options())
    raw_id = decode(credential["rawId"])
    attestation = cbor2.loads(decode(credential["response"]["attestationObject"]))
    data = attestation["authData"]
    attestation["authData"] = data[: data.index(raw_id) + len(raw_id)] + cbor2.dumps(key)
    credential["response"]["attestationObject"] = encode(cbor2.dumps(attestation))
    return credential


def assertions() -> tuple[dict[str, Any], bytes]:
    device = Authenticator(ORIGIN)
    device.create(creation_options())
    return device.get(request_options()), cbor2.dumps(device.credentials[0].public_key())
