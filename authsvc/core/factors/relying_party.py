"""Owns the relying party's part of WebAuthn: the options, and the checks of the responses.

py_webauthn does most of it. The checks that it leaves to its caller are here (WebAuthn Level 3,
sections 7.1 and 7.2): embedding in pages of other origins, unusual key sizes. Its parsers raise
more than their own errors, so a response that makes them raise anything is invalid.

Attestation is neither requested nor evaluated: nothing here depends on who made an authenticator.
Some browsers and authenticators send it all the same, in formats that the library can't read or
can't verify without certificates. The statement is dropped, as a browser should have done (section
5.1.3); its sender could have dropped it, too, so verifying it would protect nobody.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import structlog
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as new_ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from webauthn import (
    generate_authentication_options,
    generate_registration_options,
    options_to_json,
    verify_authentication_response,
    verify_registration_response,
)
from webauthn.helpers import (
    decode_credential_public_key,
    decoded_public_key_to_cryptography,
    encode_cbor,
    parse_authentication_credential_json,
    parse_cbor,
    parse_client_data_json,
    parse_registration_credential_json,
)
from webauthn.helpers.cose import COSEAlgorithmIdentifier as Algorithm
from webauthn.helpers.structs import (
    AttestationFormat,
    AuthenticationCredential,
    AuthenticatorSelectionCriteria,
    AuthenticatorTransport,
    CredentialDeviceType,
    PublicKeyCredentialDescriptor,
    RegistrationCredential,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from authsvc.config import PasskeySettings
from authsvc.core.factors.cbor_screening import reject_tags, reject_tags_in_authenticator_data
from authsvc.core.factors.signals import shown_name
from authsvc.models.users import User

CHALLENGE_BYTES = 32
# WebAuthn Level 3, section 4: "Credential ID".
_MAX_CREDENTIAL_ID = 1_023
_ALGORITHMS = [
    Algorithm.ECDSA_SHA_256,
    Algorithm.EDDSA,
    Algorithm.RSASSA_PKCS1_v1_5_SHA_256,
]
# The identifier of an attestation statement format (RFC 8809, section 2.1), registered yet or not.
_FORMAT = re.compile(r"[!#-\[\]-~]{1,32}")
_RSA_BITS = range(2_048, 4_097)

Assertion: TypeAlias = AuthenticationCredential

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Signed:
    """The content of a valid assertion.

    `backup_eligible` if the authenticator says that the key can be on several devices.
    """

    sign_count: int
    user_verified: bool
    backup_eligible: bool


@dataclass(frozen=True, slots=True)
class Created:
    """A newly created passkey; its public key is a COSE_Key (RFC 9052)."""

    credential_id: bytes
    public_key: bytes = field(repr=False)
    sign_count: int
    transports: tuple[str, ...]
    backup_eligible: bool


class RelyingParty:
    """The relying party of the settings; responses have to arrive within `challenge_lifetime`."""

    def __init__(self, settings: PasskeySettings) -> None:
        self._id = settings.relying_party_id
        self._name = settings.relying_party_name
        self._origins = [*settings.origins, *settings.related_origins]
        self.challenge_lifetime = settings.challenge_lifetime
        self._timeout = int(settings.challenge_lifetime.total_seconds() * 1_000)
        self._decoy_key = _new_key()

    def creation_options(
        self,
        challenge: bytes,
        user: User,
        exclude: Sequence[PublicKeyCredentialDescriptor],
    ) -> str:
        """Return PublicKeyCredentialCreationOptions as JSON.

        The passkey has to be discoverable, so that it can also log in without an address.
        """
        options = generate_registration_options(
            rp_id=self._id,
            rp_name=self._name,
            user_id=user.user_id.bytes,
            user_name=user.email,
            user_display_name=shown_name(user),
            challenge=challenge,
            timeout=self._timeout,
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED,
                user_verification=UserVerificationRequirement.PREFERRED,
            ),
            exclude_credentials=list(exclude),
            supported_pub_key_algs=_ALGORITHMS,
        )
        return options_to_json(options)

    def request_options(
        self,
        challenge: bytes,
        allow: Sequence[PublicKeyCredentialDescriptor],
        *,
        require_verification: bool,
    ) -> str:
        """Return PublicKeyCredentialRequestOptions as JSON; empty `allow` permits any passkey."""
        needed = UserVerificationRequirement.REQUIRED
        options = generate_authentication_options(
            rp_id=self._id,
            challenge=challenge,
            timeout=self._timeout,
            allow_credentials=list(allow),
            user_verification=(
                needed if require_verification else UserVerificationRequirement.PREFERRED
            ),
        )
        return options_to_json(options)

    def check_attestation(
        self, credential_json: str, challenge: bytes, *, require_presence: bool = True
    ) -> Created | None:
        """Return the new passkey, or None if this is no valid response to the challenge.

        The user has to have been present, except if the passkey was created conditionally (section
        7.1, step 15).
        """
        try:
            credential = parse_registration_credential_json(_load(credential_json))
            return self._attested(credential, challenge, require_presence=require_presence)
        except Exception as error:  # noqa: BLE001 - see the module's docstring
            _log_rejection("attestation", error)
            return None

    def check_assertion(
        self,
        assertion: Assertion,
        challenge: bytes,
        public_key: bytes | None,
        *,
        require_verification: bool,
    ) -> Signed | None:
        """Return what was signed, or None if this is no valid response by this key.

        The caller has to check the signature counter. Without a key the result is None, after the
        same work.
        """
        try:
            _reject_embedded(assertion.response.client_data_json)
            reject_tags_in_authenticator_data(assertion.response.authenticator_data)
            verified = verify_authentication_response(
                credential=assertion,
                expected_challenge=challenge,
                expected_rp_id=self._id,
                expected_origin=self._origins,
                credential_public_key=public_key or self._decoy_key,
                credential_current_sign_count=0,
                require_user_verification=require_verification,
            )
        except Exception as error:  # noqa: BLE001 - see the module's docstring
            _log_rejection("assertion", error)
            return None
        if public_key is None:
            return None
        eligible = verified.credential_device_type is CredentialDeviceType.MULTI_DEVICE
        return Signed(verified.new_sign_count, verified.user_verified, eligible)

    def _attested(
        self, credential: RegistrationCredential, challenge: bytes, *, require_presence: bool
    ) -> Created:
        response = credential.response
        _reject_embedded(response.client_data_json)
        response.attestation_object = _without_statement(response.attestation_object)
        verified = verify_registration_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=self._id,
            expected_origin=self._origins,
            supported_pub_key_algs=_ALGORITHMS,
            require_user_presence=require_presence,
        )
        if verified.credential_id != credential.raw_id:
            raise ValueError("the id is not the created credential's")
        if len(verified.credential_id) > _MAX_CREDENTIAL_ID:
            raise ValueError("the id is too long")
        _check_key(verified.credential_public_key)
        transports = dict.fromkeys(transport.value for transport in response.transports or ())
        return Created(
            verified.credential_id,
            verified.credential_public_key,
            verified.sign_count,
            tuple(transports),
            verified.credential_device_type is CredentialDeviceType.MULTI_DEVICE,
        )


def parse_assertion(assertion_json: str) -> Assertion | None:
    """Return a parsed PublicKeyCredential with an assertion, or None if it is invalid."""
    try:
        assertion = parse_authentication_credential_json(_load(assertion_json))
    except Exception as error:  # noqa: BLE001 - see the module's docstring
        _log_rejection("assertion", error)
        return None
    return assertion if 0 < len(assertion.raw_id) <= _MAX_CREDENTIAL_ID else None


def descriptor(
    credential_id: bytes, transports: Sequence[str] = ()
) -> PublicKeyCredentialDescriptor:
    """Return the descriptor by which options identify a passkey."""
    return PublicKeyCredentialDescriptor(
        credential_id, transports=[AuthenticatorTransport(name) for name in transports]
    )


def _load(credential_json: str) -> Any:
    """Return a PublicKeyCredential for py_webauthn, which rejects unknown attachments.

    They would have to be ignored (WebAuthn Level 3, section 2.1.1), and nothing here reads them.
    """
    credential = json.loads(credential_json)
    if isinstance(credential, dict):
        credential.pop("authenticatorAttachment", None)
    return credential


def _without_statement(attestation_object: bytes) -> bytes:
    """Return an attestation object of any format as one of the format "none"."""
    reject_tags(attestation_object)
    attestation = parse_cbor(attestation_object)
    reject_tags_in_authenticator_data(attestation["authData"])
    format_, statement = attestation["fmt"], attestation["attStmt"]
    # A compound statement is a list of others.
    if not _FORMAT.fullmatch(format_) or not isinstance(statement, dict | list):
        raise ValueError("this is no attestation statement")
    if format_ == AttestationFormat.NONE and statement:
        raise ValueError("a statement without a format")
    none = {"fmt": AttestationFormat.NONE.value, "attStmt": {}}
    return encode_cbor(none | {"authData": attestation["authData"]})


def _reject_embedded(client_data_json: bytes) -> None:
    """Reject a response from a page that was embedded in one of another origin."""
    if parse_client_data_json(client_data_json).cross_origin:
        raise ValueError("the page was embedded in one of another origin")


def _check_key(public_key: bytes) -> None:
    """Reject a key whose algorithm or curve does not match, or that is costly to verify with."""
    decoded = decode_credential_public_key(public_key)
    match decoded_public_key_to_cryptography(decoded):
        case EllipticCurvePublicKey(curve=SECP256R1()):
            algorithm = Algorithm.ECDSA_SHA_256
        case Ed25519PublicKey():
            algorithm = Algorithm.EDDSA
        case RSAPublicKey(key_size=bits) if bits in _RSA_BITS:
            algorithm = Algorithm.RSASSA_PKCS1_v1_5_SHA_256
        case _:
            raise ValueError("the key has an unsupported size or curve")
    if decoded.alg != algorithm:
        raise ValueError("the key does not match its algorithm")


def _new_key() -> bytes:
    """Return a public key whose private key nobody has, as COSE_Key."""
    numbers = new_ec_key(SECP256R1()).public_key().public_numbers()
    x, y = numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")
    return encode_cbor({1: 2, 3: Algorithm.ECDSA_SHA_256.value, -1: 1, -2: x, -3: y})


def _log_rejection(what: str, error: Exception) -> None:
    # The error's message may quote the response.
    log.info("passkey_refused", answer=what, error=type(error).__name__)
