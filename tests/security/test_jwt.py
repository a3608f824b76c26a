"""Only our own keys are accepted, each with its own algorithm, whatever a token's header says.

An independent library verifies tokens issued here and issues tokens verified here.
"""

import hmac
import json

import pytest
from cryptography.hazmat.primitives import serialization
from joserfc import jwt as their_jwt
from joserfc.jwk import KeySet

from authsvc.core.lib import base64url
from authsvc.core.signing import jwk
from authsvc.core.signing.jwk import ALGORITHMS
from authsvc.models.tokens import Claims, InactiveReason
from tests.support.forging import CLAIMS, NOW, World

MALFORMED = InactiveReason.MALFORMED
SIGNATURE_INVALID = InactiveReason.SIGNATURE_INVALID
# RFC 9864 replaces the name EdDSA, which all libraries still use.
pytestmark = [pytest.mark.fast, pytest.mark.filterwarnings("ignore:EdDSA is deprecated")]


# An independent library, in both directions


def test_independent_verifier_accepts_our_token(any_world: World) -> None:
    key = any_world.theirs()
    token = their_jwt.decode(any_world.token, key, algorithms=[any_world.key.algorithm])
    registry = their_jwt.JWTClaimsRegistry(
        now=NOW,
        **{name: {"essential": True, "allow_blank": True} for name in CLAIMS},  # type: ignore[arg-type]  # a mapping of the library's own kind
    )
    registry.validate(token.claims)
    assert token.header == {
        "typ": "at+jwt",
        "alg": any_world.key.algorithm,
        "kid": any_world.key.key_id,
    }
    assert set(token.claims) == set(CLAIMS)


def test_independent_verifier_needs_only_our_key_set(any_world: World) -> None:
    key_set = json.loads(any_world.keys.jwks())
    if any_world.key.algorithm == "HS256":
        assert key_set == {"keys": []}
        return
    keys = KeySet.import_key_set(key_set)
    token = their_jwt.decode(any_world.token, keys, algorithms=[any_world.key.algorithm])
    assert token.claims == any_world.payload
    # The key that signs, and the one that will.
    assert len(keys.keys) == 2
    assert any_world.key.key_id in {key.kid for key in keys.keys}
    for key, members in zip(keys.keys, key_set["keys"], strict=True):
        assert key.thumbprint() == key.kid
        assert not key.is_private
        assert (members["use"], members["alg"]) == ("sig", any_world.key.algorithm)


def test_token_of_independent_issuer_with_our_key_is_accepted(any_world: World) -> None:
    token = their_jwt.encode(
        any_world.header,
        any_world.payload,
        any_world.theirs(),
        algorithms=[any_world.key.algorithm],
    )
    assert isinstance(any_world.verify(token), Claims)


@pytest.mark.parametrize("claim", CLAIMS)
def test_token_of_independent_issuer_lacking_a_claim_is_rejected(world: World, claim: str) -> None:
    payload = {name: value for name, value in world.payload.items() if name != claim}
    token = their_jwt.encode(world.header, payload, world.theirs(), algorithms=["ES256"])
    assert world.verify(token) is MALFORMED


def test_forging_helper_without_changes_yields_valid_token(any_world: World) -> None:
    assert isinstance(any_world.verify(any_world.forge()), Claims)
    assert any_world.forge().split(".")[0] != any_world.token.split(".")[0]


# Keys and algorithms


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", ""])
@pytest.mark.parametrize("signature", ["", "AA"])
def test_unsigned_token_is_rejected(world: World, algorithm: str, signature: str) -> None:
    token = world.with_header(alg=algorithm)
    assert world.verify(token) is MALFORMED
    assert world.verify(token[: token.rindex(".") + 1] + signature) is MALFORMED


@pytest.mark.parametrize(
    "algorithm", ["ES384", "ES512", "ES256K", "PS256", "HS512", "es256", "A128KW"]
)
def test_unused_algorithm_is_rejected(world: World, algorithm: str) -> None:
    assert world.verify(world.with_header(alg=algorithm)) is MALFORMED


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_algorithm_of_another_key_is_rejected(any_world: World, algorithm: str) -> None:
    if algorithm != any_world.key.algorithm:
        assert any_world.verify(any_world.with_header(alg=algorithm)) is SIGNATURE_INVALID


def test_public_key_is_not_accepted_as_shared_secret(any_world: World) -> None:
    header = any_world.header | {"alg": "HS256"}
    parts = (json.dumps(part).encode() for part in (header, any_world.payload))
    signing_input = ".".join(map(base64url.encode, parts))
    for secret in _public_texts(any_world):
        mac = hmac.digest(secret, signing_input.encode(), "sha256")
        token = f"{signing_input}.{base64url.encode(mac)}"
        assert any_world.verify(token) is SIGNATURE_INVALID


def _public_texts(world: World) -> list[bytes]:
    texts = [b"", bytes(32), world.key.key_id.encode(), world.keys.jwks().encode()]
    if world.key.public_jwk is not None:
        public = world.key._secret.public_key()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        pem = public.public_bytes(serialization.Encoding.PEM, form)
        der = public.public_bytes(serialization.Encoding.DER, form)
        texts += [pem, pem.strip(), der, json.dumps(world.key.public_jwk).encode()]
    return texts


def test_foreign_key_is_rejected_under_any_id(any_world: World) -> None:
    stranger = jwk.generate(any_world.key.algorithm)
    for key_id in (stranger.key_id, any_world.key.key_id):
        header = {**any_world.header, "kid": key_id}
        parts = (json.dumps(part).encode() for part in (header, any_world.payload))
        signing_input = ".".join(map(base64url.encode, parts))
        token = f"{signing_input}.{base64url.encode(stranger.sign(signing_input.encode()))}"
        assert any_world.verify(token) is SIGNATURE_INVALID


@pytest.mark.parametrize("key_id", ["", "x", "A" * 43, "../../dev/null", "' OR 1=1 --", "\0", "é"])
def test_unknown_key_id_is_rejected(world: World, key_id: str) -> None:
    assert world.verify(world.with_header(kid=key_id)) is SIGNATURE_INVALID


def test_key_embedded_in_token_is_rejected(world: World) -> None:
    stranger = jwk.generate("ES256")
    for extra in (
        {"jwk": stranger.public_jwk},
        {"jku": "https://evil.example/jwks.json"},
        {"x5u": "https://evil.example/cert.pem"},
        {"x5c": ["MIIB"]},
        {"x5t": "AAAA"},
        {"x5t#S256": "AAAA"},
        # Not even our own key.
        {"jwk": world.key.public_jwk},
    ):
        assert world.verify(world.with_header(**extra)) is MALFORMED


@pytest.mark.parametrize(
    "extra",
    [
        {"crit": ["exp"], "exp": 1},
        {"crit": []},
        {"crit": ["b64"], "b64": False},
        {"b64": True},
        {"cty": "JWT"},
        {"zip": "DEF"},
        {"anything": 1},
        {"": ""},
    ],
)
def test_unknown_header_member_is_rejected(world: World, extra: dict[str, object]) -> None:
    assert world.verify(world.with_header(**extra)) is MALFORMED


@pytest.mark.parametrize("name", ["typ", "alg", "kid"])
@pytest.mark.parametrize("value", [None, 5, True, [], ["at+jwt"], {}, {"a": 1}])
def test_header_member_of_wrong_type_is_rejected(world: World, name: str, value: object) -> None:
    assert world.verify(world.with_header(**{name: value})) is MALFORMED


@pytest.mark.parametrize("name", ["typ", "alg", "kid"])
def test_missing_header_member_is_rejected(world: World, name: str) -> None:
    header = {member: value for member, value in world.header.items() if member != name}
    assert world.verify(world.forge(header=header)) is MALFORMED


@pytest.mark.parametrize(
    "typ", ["JWT", "jwt", "AT+JWT", "application/at+jwt", "at+jwt ", "id+jwt", "logout+jwt", ""]
)
def test_token_of_another_type_is_rejected(world: World, typ: str) -> None:
    assert world.verify(world.with_header(typ=typ)) is MALFORMED
