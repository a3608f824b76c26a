"""Owns what WebAuthn asks of a relying party: the options, and the checks of the answers.

py_webauthn does most of it. What it leaves to its caller is here (WebAuthn Level 3, sections 7.1
and 7.2): pages embedded in foreign ones, keys of odd sizes, attestation that nobody asked for. Its
parsers raise more than their own errors, so whatever an answer makes them raise makes it invalid.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

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
    parse_attestation_object,
    parse_authentication_credential_json,
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
from authsvc.models.ids import UserId

CHALLENGE_BYTES = 32
# WebAuthn Level 3, section 4: "Credential ID".
_MAX_CREDENTIAL_ID = 1_023
_ALGORITHMS = [
    Algorithm.ECDSA_SHA_256,
    Algorithm.EDDSA,
    Algorithm.RSASSA_PKCS1_v1_5_SHA_256,
]
# No attestation is asked for: then browsers hand over none, or one by the passkey itself. All else
# brings certificates, which nothing here depends on.
_FORMATS = {AttestationFormat.NONE, AttestationFormat.PACKED}
_RSA_BITS = range(2_048, 4_097)

Assertion: TypeAlias = AuthenticationCredential

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Signed:
    """What a valid assertion says.

    `synced`: the key can be on several of the user's devices, as the authenticator tells.
    """

    sign_count: int
    user_verified: bool
    synced: bool


@dataclass(frozen=True, slots=True)
class Created:
    """A passkey that was just made, its public key as COSE_Key (RFC 9052)."""

    credential_id: bytes
    public_key: bytes = field(repr=False)
    sign_count: int
    transports: tuple[str, ...]


class RelyingParty:
    """The relying party that the settings describe; an answer may take `challenge_lifetime`."""

    def __init__(self, settings: PasskeySettings) -> None:
        self._id = settings.relying_party_id
        self._name = settings.relying_party_name
        self._origins = list(settings.origins)
        self.challenge_lifetime = settings.challenge_lifetime
        self._timeout = int(settings.challenge_lifetime.total_seconds() * 1_000)
        self._nobodys_key = _new_key()

    def creation_options(
        self,
        challenge: bytes,
        user_id: UserId,
        email: str,
        exclude: Sequence[PublicKeyCredentialDescriptor],
    ) -> str:
        """Return PublicKeyCredentialCreationOptions as JSON.

        The passkey is to be discoverable, so that each of them also logs in without an address.
        """
        options = generate_registration_options(
            rp_id=self._id,
            rp_name=self._name,
            user_id=user_id.bytes,
            user_name=email,
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
        """Return PublicKeyCredentialRequestOptions as JSON; `allow` empty: any passkey."""
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

    def check_attestation(self, credential_json: str, challenge: bytes) -> Created | None:
        """Return the new passkey, if this is a valid answer to the challenge."""
        try:
            return self._attested(parse_registration_credential_json(credential_json), challenge)
        except Exception as error:  # noqa: BLE001 - see the module's docstring
            _log_refusal("attestation", error)
            return None

    def check_assertion(
        self,
        assertion: Assertion,
        challenge: bytes,
        public_key: bytes | None,
        *,
        require_verification: bool,
    ) -> Signed | None:
        """Return what was signed, if this is a valid answer to the challenge by this key.

        The signature counter is the caller's to judge. Without a key the answer is None, after the
        same work.
        """
        try:
            _refuse_embedded(assertion.response.client_data_json)
            verified = verify_authentication_response(
                credential=assertion,
                expected_challenge=challenge,
                expected_rp_id=self._id,
                expected_origin=self._origins,
                credential_public_key=public_key or self._nobodys_key,
                credential_current_sign_count=0,
                require_user_verification=require_verification,
            )
        except Exception as error:  # noqa: BLE001 - see the module's docstring
            _log_refusal("assertion", error)
            return None
        if public_key is None:
            return None
        synced = verified.credential_device_type is CredentialDeviceType.MULTI_DEVICE
        return Signed(verified.new_sign_count, verified.user_verified, synced)

    def _attested(self, credential: RegistrationCredential, challenge: bytes) -> Created:
        response = credential.response
        _refuse_embedded(response.client_data_json)
        attestation = parse_attestation_object(response.attestation_object)
        if attestation.fmt not in _FORMATS or attestation.att_stmt.x5c is not None:
            raise ValueError("attestation of a kind that was not asked for")
        verified = verify_registration_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=self._id,
            expected_origin=self._origins,
            supported_pub_key_algs=_ALGORITHMS,
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
        )


def parse_assertion(assertion_json: str) -> Assertion | None:
    """Return a PublicKeyCredential with an assertion; None: it is none."""
    try:
        assertion = parse_authentication_credential_json(assertion_json)
    except Exception as error:  # noqa: BLE001 - see the module's docstring
        _log_refusal("assertion", error)
        return None
    return assertion if 0 < len(assertion.raw_id) <= _MAX_CREDENTIAL_ID else None


def descriptor(
    credential_id: bytes, transports: Sequence[str] = ()
) -> PublicKeyCredentialDescriptor:
    """Return how options name a passkey."""
    return PublicKeyCredentialDescriptor(
        credential_id, transports=[AuthenticatorTransport(name) for name in transports]
    )


def _refuse_embedded(client_data_json: bytes) -> None:
    """Refuse an answer from a page that was embedded in one of another origin."""
    if parse_client_data_json(client_data_json).cross_origin:
        raise ValueError("the page was embedded in a foreign one")


def _check_key(public_key: bytes) -> None:
    """Refuse a key that is not of its algorithm, or not on its curve, or costly to verify with."""
    decoded = decode_credential_public_key(public_key)
    match decoded_public_key_to_cryptography(decoded):
        case EllipticCurvePublicKey(curve=SECP256R1()):
            algorithm = Algorithm.ECDSA_SHA_256
        case Ed25519PublicKey():
            algorithm = Algorithm.EDDSA
        case RSAPublicKey(key_size=bits) if bits in _RSA_BITS:
            algorithm = Algorithm.RSASSA_PKCS1_v1_5_SHA_256
        case _:
            raise ValueError("the key is of no size or curve that is taken")
    if decoded.alg != algorithm:
        raise ValueError("the key is of another algorithm")


def _new_key() -> bytes:
    """Return the public key of nobody, as COSE_Key."""
    numbers = new_ec_key(SECP256R1()).public_key().public_numbers()
    x, y = numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")
    return encode_cbor({1: 2, 3: Algorithm.ECDSA_SHA_256.value, -1: 1, -2: x, -3: y})


def _log_refusal(what: str, error: Exception) -> None:
    # The message may quote what was sent.
    log.info("passkey_refused", answer=what, error=type(error).__name__)
