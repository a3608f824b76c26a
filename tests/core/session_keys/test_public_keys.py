"""Which public keys can be attested: kinds, sizes, canonical forms; never a private member."""

import json
from collections.abc import Mapping
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.session_keys.public_keys import parse_fingerprint, parse_jwk
from authsvc.errors import FieldInvalid
from tests.support.session_keys import b64, elliptic, okp, rsa_key

_KEYS: dict[str, Mapping[str, str]] = {
    "X25519": okp(),
    "Ed25519": okp("Ed25519"),
    "P-256": elliptic(),
    "P-384": elliptic("P-384"),
    "RSA": rsa_key(),
}
_PRIME = 2**255 - 19


def _refusal(jwk: object) -> str:
    text = jwk if isinstance(jwk, str) else json.dumps(jwk)
    with pytest.raises(FieldInvalid) as refused:
        parse_jwk(text, "public_jwk")
    (violation,) = refused.value.violations
    assert violation.field == "public_jwk"
    return violation.description


@pytest.mark.parametrize("name", _KEYS)
def test_canonical_form_has_only_required_members_in_order(name: str) -> None:
    key = _KEYS[name]
    dressed = {"use": "enc", "key_ops": [], "ext": True, "kid": "x", "alg": "ECDH-ES"} | dict(
        reversed(list(key.items()))
    )
    parsed = parse_jwk(json.dumps(dressed, indent=2), "public_jwk").text
    assert parsed == json.dumps(key, sort_keys=True, separators=(",", ":"))
    assert parse_jwk(parsed, "public_jwk").text == parsed


@pytest.mark.parametrize("name", _KEYS)
@pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
def test_private_member_is_refused_and_not_quoted(name: str, member: str) -> None:
    problem = _refusal({**_KEYS[name], member: "c2VjcmV0"})
    assert problem == "must be a public key, without any private member"


@pytest.mark.parametrize("member", ["x", "y", "crv", "n", "e"])
@pytest.mark.parametrize("value", [None, [], {}, 7, True, "", "AA==", "=", "A", "é", "A" * 43])
def test_member_of_wrong_type_or_encoding_is_refused(member: str, value: object) -> None:
    for key in _KEYS.values():
        if member in key:
            assert _refusal({**key, member: value})


@pytest.mark.parametrize(
    ("jwk", "problem"),
    [
        ("", "JSON object"),
        ("[]", "JSON object"),
        ("null", "JSON object"),
        ("{" * 2_000, "JSON object"),
        ('{"kty":"OKP","kty":"OKP"}', "duplicate"),
        ({}, '"kty"'),
        ({"kty": ["OKP"]}, '"kty"'),
        ({"kty": "oct"}, '"kty"'),
        ({"kty": "oct", "k": "c2VjcmV0"}, "private"),
        ({**okp(), "crv": "X448"}, '"crv" X25519 or Ed25519'),
        ({**elliptic(), "crv": "secp256k1"}, '"crv" P-256 or P-384'),
        ({**elliptic(), "crv": "P-384"}, "not a point"),
        ({**elliptic(), "y": elliptic()["y"]}, "not a point"),
        ({**elliptic(), "x": b64(bytes(32)), "y": b64(bytes(32))}, "not a point"),
        ({**okp(), "y": "AA"}, "don't belong"),
        ({**okp(), "x5c": ["AA"]}, "don't belong"),
        ({**okp(), "x": b64(bytes(31))}, "not a key"),
    ],
)
def test_other_documents_are_refused(jwk: object, problem: str) -> None:
    assert problem in _refusal(jwk)


@pytest.mark.parametrize("point", [0, 1, _PRIME - 1, _PRIME, _PRIME + 1, _PRIME + 9, 2**255 + 9])
def test_x25519_points_of_small_order_or_second_form_are_refused(point: int) -> None:
    assert "not a key" in _refusal({**okp(), "x": b64(point.to_bytes(32, "little"))})


@pytest.mark.parametrize("point", [0, 1, _PRIME - 1, _PRIME, _PRIME + 1, 2])
def test_ed25519_points_of_small_order_or_not_on_curve_are_refused(point: int) -> None:
    assert "not a key" in _refusal({**okp("Ed25519"), "x": b64(point.to_bytes(32, "little"))})


@pytest.mark.parametrize("bits", [1_024, 2_047, 4_097, 8_192])
def test_rsa_modulus_has_2048_to_4096_bits(bits: int) -> None:
    modulus = (1 << (bits - 1)) | 1
    n = b64(modulus.to_bytes((bits + 7) // 8))
    assert "2048 to 4096" in _refusal({**rsa_key(), "n": n})


def test_rsa_modulus_of_2048_and_4096_bits_is_accepted() -> None:
    for bits in (2_048, 4_096):
        n = b64(((1 << (bits - 1)) | 1).to_bytes(bits // 8))
        assert n in parse_jwk(json.dumps({**rsa_key(), "n": n}), "public_jwk").text


def test_rsa_key_has_one_form_and_one_exponent() -> None:
    key = rsa_key()
    raw = b"\0" + bytes.fromhex("80") + bytes(254) + b"\1"
    assert "2048 to 4096" in _refusal({**key, "n": b64(raw)})
    assert "2048 to 4096" in _refusal({**key, "n": b64(raw[1:-1] + b"\2")})
    for exponent in (b"\1", b"\3", b"\0\1\0\1", b"\1\0\0"):
        assert '"e" 65537' in _refusal({**key, "e": b64(exponent)})


# Never anything but FieldInvalid.
@given(
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "n", "e", "use", "zip"]),
        st.sampled_from(["OKP", "EC", "RSA", "X25519", "Ed25519", "P-256", "AQAB"])
        | st.text(max_size=50)
        | st.integers()
        | st.none()
        | st.lists(st.text(), max_size=2)
        | st.binary(min_size=32, max_size=32).map(b64),
    )
)
def test_any_object_is_parsed_or_refused(members: dict[str, object]) -> None:
    with suppress(FieldInvalid):
        parse_jwk(json.dumps(members), "public_jwk")


def test_fingerprint_has_lower_case_hash_and_upper_case_bytes() -> None:
    for name, length in (("sha-256", 32), ("SHA-384", 48), ("sha-512", 64)):
        given_bytes = ":".join(["ab"] * length)
        parsed = parse_fingerprint(f"{name} {given_bytes}", "dtls_fingerprint").text
        assert parsed == f"{name.lower()} {given_bytes.upper()}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sha-1 " + ":".join(["AB"] * 20), "sha-256, sha-384 or sha-512"),
        ("md5 " + ":".join(["AB"] * 16), "sha-256, sha-384 or sha-512"),
        ("sha-224 " + ":".join(["AB"] * 28), "sha-256, sha-384 or sha-512"),
        ("sha-256 " + ":".join(["AB"] * 31), "32 bytes"),
        ("sha-256 " + ":".join(["AB"] * 33), "32 bytes"),
        ("sha-512 " + ":".join(["AB"] * 32), "64 bytes"),
        ("sha-256 " + "AB" * 32, "like"),
        ("sha-256  " + ":".join(["AB"] * 32), "like"),
        ("sha-256 " + ":".join(["AG"] * 32), "like"),
        ("sha-256 " + ":".join(["AB"] * 32) + "\n", "like"),
        ("sha-256", "like"),
        ("", "like"),
    ],
)
def test_other_fingerprints_are_refused(text: str, problem: str) -> None:
    with pytest.raises(FieldInvalid) as refused:
        parse_fingerprint(text, "dtls_fingerprint")
    assert problem in refused.value.violations[0].description


def test_digits_of_other_scripts_are_refused() -> None:
    with pytest.raises(FieldInvalid):
        parse_fingerprint("sha-256 " + ":".join(["A٣"] * 32), "dtls_fingerprint")
