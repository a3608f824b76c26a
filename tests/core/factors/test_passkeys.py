"""The relying party's options for passkeys, and the responses that it accepts."""

import hashlib
import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from pydantic import ValidationError
from webauthn import verify_registration_response

from authsvc.config import PasskeySettings
from authsvc.dev.authenticator import Authenticator, Credential, decode, encode
from tests.support.ceremonies import (
    CHALLENGE,
    PARTY,
    creation_options,
    is_signed,
    is_taken,
    request_options,
    update,
    with_attestation,
    with_key,
)
from tests.support.passkeys import ORIGIN, SoftDevice


def _number(value: int, size: int | None = None) -> bytes:
    return value.to_bytes(size or (value.bit_length() + 7) // 8, "big")


def _ec_key(curve: ec.EllipticCurve, algorithm: int, name: int) -> dict[int, Any]:
    numbers = ec.generate_private_key(curve).public_key().public_numbers()
    size = (curve.key_size + 7) // 8
    return {
        1: 2,
        3: algorithm,
        -1: name,
        -2: _number(numbers.x, size),
        -3: _number(numbers.y, size),
    }


def _rsa_key(bits: int, algorithm: int = -257) -> dict[int, Any]:
    numbers = rsa.generate_private_key(65_537, bits).public_key().public_numbers()
    return {1: 3, 3: algorithm, -1: _number(numbers.n), -2: _number(numbers.e)}


def _ed25519_key(algorithm: int) -> dict[int, Any]:
    raw = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    return {1: 1, 3: algorithm, -1: 6, -2: raw}


def test_keys_of_offered_algorithms_are_accepted() -> None:
    offered = [kind["alg"] for kind in json.loads(creation_options())["pubKeyCredParams"]]
    keys = [_ec_key(ec.SECP256R1(), -7, 1), _ed25519_key(-8), _rsa_key(2_048)]
    assert [key[3] for key in keys] == offered
    for key in keys:
        assert is_taken(with_key(key)), key[3]


@pytest.mark.slow
@pytest.mark.parametrize(
    "key",
    [
        pytest.param(lambda: _ec_key(ec.SECP384R1(), -7, 2), id="ES256 on another curve"),
        pytest.param(lambda: _ec_key(ec.SECP256R1(), -36, 1), id="ES512"),
        pytest.param(lambda: _ec_key(ec.SECP256R1(), 0, 1), id="no algorithm"),
        pytest.param(lambda: _ec_key(ec.SECP256R1(), -257, 1), id="RS256 of a curve"),
        pytest.param(lambda: _ec_key(ec.SECP256R1(), -7, 1) | {-3: b"y" * 32}, id="off the curve"),
        pytest.param(lambda: _ec_key(ec.SECP256R1(), -7, 1) | {-2: b""}, id="no point"),
        pytest.param(lambda: _rsa_key(1_024), id="short RSA"),
        pytest.param(lambda: {1: 3, 3: -257, -1: b"\xff" * 4_096, -2: b"\x03"}, id="huge RSA"),
        pytest.param(lambda: _rsa_key(2_048, -37), id="PS256"),
        pytest.param(lambda: _rsa_key(2_048, -65_535), id="RS1"),
        pytest.param(lambda: _rsa_key(2_048, -7), id="ES256 of RSA"),
        pytest.param(lambda: _ed25519_key(-7), id="ES256 of Ed25519"),
        pytest.param(lambda: 4, id="a key that reads as an uncompressed point"),
        pytest.param(lambda: {1: 2, 3: -7}, id="nothing but its kind"),
        pytest.param(dict, id="nothing"),
    ],
)
def test_other_keys_are_rejected(key: Callable[[], dict[int, Any]]) -> None:
    assert not is_taken(with_key(key()))


def test_attestation_must_be_none_or_self() -> None:
    assert is_taken(with_attestation(lambda _: None))
    for change in (
        {"fmt": "fido-u2f"},
        {"fmt": "tpm"},
        {"fmt": ["none"]},
        {"fmt": None},
        {"attStmt": {"sig": b"x"}},
        {"fmt": "packed", "attStmt": {"alg": -7, "sig": b"x"}},
        {"authData": b""},
        {"authData": "x"},
    ):
        assert not is_taken(with_attestation(partial(update, change))), change


def test_unrequested_attestation_formats_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(**_: Any) -> bool:
        return True

    place = verify_registration_response.__module__
    monkeypatch.setattr(f"{place}.verify_android_safetynet", verify)
    stated = {"fmt": "android-safetynet", "attStmt": {"ver": "1", "response": b"x"}}
    assert not is_taken(with_attestation(partial(update, stated)))


def test_credential_id_must_match_and_be_short() -> None:
    credential = Authenticator(ORIGIN).create(creation_options())
    assert is_taken(credential)
    other = encode(secrets.token_bytes(32))
    assert not is_taken(credential | {"id": other, "rawId": other})
    assert not is_taken(credential | {"id": other})
    device = Authenticator(ORIGIN)
    for size, taken in ((1_023, True), (1_024, False)):
        device.next_id = b"i" * size
        assert is_taken(device.create(creation_options())) is taken


def test_self_attestation_statement_is_verified() -> None:
    for wrong in (0, 1):
        device = Authenticator(ORIGIN)
        credential = device.create(creation_options())
        attestation = cbor2.loads(decode(credential["response"]["attestationObject"]))
        said = hashlib.sha256(decode(credential["response"]["clientDataJSON"])).digest()
        signature = device.credentials[0].private_key.sign(
            attestation["authData"] + said + b"x" * wrong, ec.ECDSA(hashes.SHA256())
        )
        attestation |= {"fmt": "packed", "attStmt": {"alg": -7, "sig": signature}}
        credential["response"]["attestationObject"] = encode(cbor2.dumps(attestation))
        assert is_taken(credential) is not bool(wrong)


def test_attestation_certificates_are_rejected() -> None:
    device = Authenticator(ORIGIN)
    device.verifies_user = False
    maker = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(maker)
    for fmt in ("fido-u2f", "packed"):
        credential = device.create(creation_options())
        attestation = cbor2.loads(decode(credential["response"]["attestationObject"]))
        data, raw_id = attestation["authData"], decode(credential["rawId"])
        said = hashlib.sha256(decode(credential["response"]["clientDataJSON"])).digest()
        key = device.credentials[-1].public_key()
        u2f = b"\0" + data[:32] + said + raw_id + b"\x04" + key[-2] + key[-3]
        signed = u2f if fmt == "fido-u2f" else data + said
        statement: dict[str, Any] = {
            "sig": maker.sign(signed, ec.ECDSA(hashes.SHA256())),
            "x5c": [certificate],
        }
        if fmt == "packed":
            statement["alg"] = -7
        attestation |= {"fmt": fmt, "attStmt": statement}
        credential["response"]["attestationObject"] = encode(cbor2.dumps(attestation))
        # It is valid, just not accepted.
        verify_registration_response(
            credential=credential,
            expected_challenge=CHALLENGE,
            expected_rp_id="localhost",
            expected_origin=ORIGIN,
        )
        assert not is_taken(credential)


def _certificate(maker: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a self-signed certificate of an authenticator vendor, in DER."""
    texts = {
        NameOID.COUNTRY_NAME: "SE",
        NameOID.ORGANIZATION_NAME: "Maker",
        NameOID.ORGANIZATIONAL_UNIT_NAME: "Authenticator Attestation",
        NameOID.COMMON_NAME: "Key",
    }
    name = x509.Name([x509.NameAttribute(oid, text) for oid, text in texts.items()])
    builder = x509.CertificateBuilder(name, name, maker.public_key(), x509.random_serial_number())
    start = datetime(2020, 1, 1, tzinfo=UTC)
    builder = builder.not_valid_before(start).not_valid_after(start.replace(year=2120))
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    return builder.sign(maker, hashes.SHA256()).public_bytes(Encoding.DER)


def test_independent_authenticator_is_accepted() -> None:
    device = SoftDevice()
    created = PARTY.check_attestation(json.dumps(device.create(creation_options())), CHALLENGE)
    assert created is not None
    assertion = device.get(request_options())
    assert is_signed(assertion, created.public_key, verified=False)
    assert not is_signed(assertion, created.public_key, verified=True)


@pytest.mark.parametrize(
    ("origins", "domain"),
    [
        (("https://example.com",), "example.com"),
        (("https://login.example.com:8443", "https://example.com"), "example.com"),
        (("https://xn--bcher-kva.example",), "xn--bcher-kva.example"),
        (("http://localhost", "http://localhost:3000", "https://localhost"), "localhost"),
    ],
)
def test_origins_of_domain_are_accepted(origins: tuple[str, ...], domain: str) -> None:
    assert PasskeySettings(origins=origins, relying_party_id=domain).origins == origins


@pytest.mark.parametrize(
    ("origin", "domain"),
    [
        ("http://example.com", "example.com"),
        ("https://example.com/", "example.com"),
        ("https://example.com/login", "example.com"),
        ("https://Example.com", "example.com"),
        ("https://example.com\n", "example.com"),
        ("https://evilexample.com", "example.com"),
        ("https://example.com.evil.test", "example.com"),
        ("https://ada@example.com", "example.com"),
        ("https://*.example.com", "example.com"),
        ("https://example.com", "login.example.com"),
        ("https://192.0.2.1", "192.0.2.1"),
        ("http://localhost:8080", "example.com"),
        ("http://127.0.0.1:8080", "127.0.0.1"),
        ("https://bücher.example", "bücher.example"),
        ("null", "localhost"),
        ("", "localhost"),
        ("https://example.com", ".com"),
        ("https://example.com", "example.com."),
    ],
)
def test_other_origins_are_rejected(origin: str, domain: str) -> None:
    with pytest.raises(ValidationError):
        PasskeySettings(origins=(origin,), relying_party_id=domain)


def test_credential_repr_hides_key() -> None:
    assert "key" not in repr(Credential("localhost", b"handle"))
