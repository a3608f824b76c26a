"""What a relying party asks of passkeys, and which answers it takes: it never stumbles over one."""

import hashlib
import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from webauthn import verify_registration_response

from authsvc.config import PasskeySettings
from authsvc.core.relying_party import RelyingParty, parse_assertion
from authsvc.dev.authenticator import Authenticator, Credential, decode, encode
from authsvc.models import UserId
from tests.passkeys import ORIGIN, SoftDevice

PARTY = RelyingParty(PasskeySettings())
CHALLENGE = b"c" * 32
USER = UserId(uuid4())
MAX_JSON = 16_384


def _creation() -> str:
    return PARTY.creation_options(CHALLENGE, USER, "ada@example.test", [])


def _request() -> str:
    return PARTY.request_options(CHALLENGE, [], require_verification=True)


def _taken(credential: Any) -> bool:
    return PARTY.check_attestation(json.dumps(credential), CHALLENGE) is not None


def _signed(credential: Any, public_key: bytes, *, verified: bool = True) -> bool:
    assertion = parse_assertion(json.dumps(credential))
    if assertion is None:
        return False
    signed = PARTY.check_assertion(assertion, CHALLENGE, public_key, require_verification=verified)
    return signed is not None


def _with_attestation(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return a new passkey whose attestation object was changed."""
    credential = Authenticator(ORIGIN).create(_creation())
    attestation = cbor2.loads(decode(credential["response"]["attestationObject"]))
    change(attestation)
    credential["response"]["attestationObject"] = encode(cbor2.dumps(attestation))
    return credential


def _update(changes: dict[str, Any], attestation: dict[str, Any]) -> None:
    attestation.update(changes)


def _with_key(key: Any) -> dict[str, Any]:
    """Return a new passkey with this public key."""
    credential = Authenticator(ORIGIN).create(_creation())
    raw_id = decode(credential["rawId"])
    attestation = cbor2.loads(decode(credential["response"]["attestationObject"]))
    data = attestation["authData"]
    attestation["authData"] = data[: data.index(raw_id) + len(raw_id)] + cbor2.dumps(key)
    credential["response"]["attestationObject"] = encode(cbor2.dumps(attestation))
    return credential


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


def test_keys_of_the_algorithms_that_are_offered() -> None:
    offered = [kind["alg"] for kind in json.loads(_creation())["pubKeyCredParams"]]
    keys = [_ec_key(ec.SECP256R1(), -7, 1), _ed25519_key(-8), _rsa_key(2_048)]
    assert [key[3] for key in keys] == offered
    for key in keys:
        assert _taken(_with_key(key)), key[3]


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
def test_other_keys_are_refused(key: Callable[[], dict[int, Any]]) -> None:
    assert not _taken(_with_key(key()))


def test_attestation_is_none_or_by_the_passkey_itself() -> None:
    assert _taken(_with_attestation(lambda _: None))
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
        assert not _taken(_with_attestation(partial(_update, change))), change


def test_formats_that_nobody_asked_for_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(**_: Any) -> bool:
        return True

    place = verify_registration_response.__module__
    monkeypatch.setattr(f"{place}.verify_android_safetynet", verify)
    stated = {"fmt": "android-safetynet", "attStmt": {"ver": "1", "response": b"x"}}
    assert not _taken(_with_attestation(partial(_update, stated)))


def test_an_id_has_to_be_the_created_one_s_and_short() -> None:
    credential = Authenticator(ORIGIN).create(_creation())
    assert _taken(credential)
    other = encode(secrets.token_bytes(32))
    assert not _taken(credential | {"id": other, "rawId": other})
    assert not _taken(credential | {"id": other})
    device = Authenticator(ORIGIN)
    for size, taken in ((1_023, True), (1_024, False)):
        device.next_id = b"i" * size
        assert _taken(device.create(_creation())) is taken


def test_a_statement_by_the_passkey_itself_is_checked() -> None:
    for wrong in (0, 1):
        device = Authenticator(ORIGIN)
        credential = device.create(_creation())
        attestation = cbor2.loads(decode(credential["response"]["attestationObject"]))
        said = hashlib.sha256(decode(credential["response"]["clientDataJSON"])).digest()
        signature = device.credentials[0].private_key.sign(
            attestation["authData"] + said + b"x" * wrong, ec.ECDSA(hashes.SHA256())
        )
        attestation |= {"fmt": "packed", "attStmt": {"alg": -7, "sig": signature}}
        credential["response"]["attestationObject"] = encode(cbor2.dumps(attestation))
        assert _taken(credential) is not bool(wrong)


def test_certificates_are_refused() -> None:
    device = Authenticator(ORIGIN)
    device.verifies_user = False
    maker = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(maker)
    for fmt in ("fido-u2f", "packed"):
        credential = device.create(_creation())
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
        # It is in order, only not wanted.
        verify_registration_response(
            credential=credential,
            expected_challenge=CHALLENGE,
            expected_rp_id="localhost",
            expected_origin=ORIGIN,
        )
        assert not _taken(credential)


def _certificate(maker: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a certificate of a maker of authenticators, self-signed, in DER."""
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


def test_another_implementation_is_understood() -> None:
    device = SoftDevice()
    created = PARTY.check_attestation(json.dumps(device.create(_creation())), CHALLENGE)
    assert created is not None
    assertion = device.get(_request())
    assert _signed(assertion, created.public_key, verified=False)
    assert not _signed(assertion, created.public_key, verified=True)


def _assertions() -> tuple[dict[str, Any], bytes]:
    device = Authenticator(ORIGIN)
    device.create(_creation())
    return device.get(_request()), cbor2.dumps(device.credentials[0].public_key())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=20,
)
BYTES = st.binary(max_size=200) | st.recursive(
    st.none() | st.integers() | st.binary(max_size=40) | st.text(max_size=9) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers(-9, 9) | st.text(max_size=9), inner, max_size=5)
        | st.builds(cbor2.CBORTag, st.integers(0, 300), inner)
    ),
    max_leaves=12,
).map(cbor2.dumps)
FIELDS = (
    *("id", "rawId", "type", "response", "authenticatorAttachment"),
    *("response.clientDataJSON", "response.authenticatorData", "response.signature"),
    *("response.userHandle", "response.attestationObject", "response.transports"),
)


def _put(credential: dict[str, Any], field: str, value: Any) -> None:
    *outer, name = field.split(".")
    (credential[outer[0]] if outer else credential)[name] = value


@settings(max_examples=200, deadline=None)
@given(
    field=st.sampled_from(FIELDS),
    value=JSON | BYTES.map(encode) | st.lists(JSON),
    drop=st.booleans(),
)
def test_no_field_can_make_it_stumble(field: str, value: Any, drop: bool) -> None:
    assertion, public_key = _assertions()
    created = Authenticator(ORIGIN).create(_creation())
    for credential in (assertion, created):
        before = json.dumps(credential)
        _put(credential, field, value)
        if drop:
            *outer, name = field.split(".")
            del (credential[outer[0]] if outer else credential)[name]
        assert _signed(credential, public_key) in {True, False}
        assert _taken(credential) in {True, False}
        if json.dumps(credential) == before:
            return


@settings(max_examples=200, deadline=None)
@given(
    client_data=JSON
    | st.dictionaries(
        st.sampled_from(["type", "challenge", "origin", "crossOrigin", "tokenBinding"]), JSON
    )
)
def test_no_client_data_can_make_it_stumble(client_data: Any) -> None:
    said = encode(json.dumps(client_data).encode("utf-8", "surrogatepass"))
    assertion, public_key = _assertions()
    created = Authenticator(ORIGIN).create(_creation())
    for credential in (assertion, created):
        _put(credential, "response.clientDataJSON", said)
        assert not _signed(credential, public_key)
        assert not _taken(credential)


@settings(max_examples=200, deadline=None)
@given(
    raw=BYTES,
    key=st.recursive(
        st.integers(-300, 300)
        | st.binary(max_size=40)
        | st.none()
        | st.floats()
        | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.integers(-4, 4), inner, max_size=6)
        ),
    ),
)
def test_no_authenticator_data_can_make_it_stumble(raw: bytes, key: Any) -> None:
    assertion, public_key = _assertions()
    data = decode(assertion["response"]["authenticatorData"])
    for flags in (0x05, 0x45, 0xC5, 0x85):
        changed = data[:32] + bytes([flags]) + data[33:37] + raw
        _put(assertion, "response.authenticatorData", encode(changed))
        assert _signed(assertion, public_key) is (changed == data)
    assert not _signed(assertion, raw)
    assert not _signed(assertion, cbor2.dumps(key))
    assert not _taken(_with_key(key))
    assert not _taken(_with_attestation(lambda found: found.update(authData=raw)))
    assert _taken(_with_attestation(lambda found: found.update(attStmt=key))) in {True, False}


DEEP = {
    "lists": "[" * MAX_JSON,
    "objects": ('{"id":' * MAX_JSON)[:MAX_JSON],
    "number": "1" * MAX_JSON,
    "text": '"' + "x" * (MAX_JSON - 2) + '"',
    "escapes": '"' + "\\ud800" * 2_000 + '"',
    "NaN": "NaN",
    "infinity": "-Infinity",
    "exponent": "1e999999999",
    "not closed": '{"id": "',
    "twice": '{"id": "a", "id": "b"}',
    "no JSON": "\ufeff{}",
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_and_long_json_is_refused(name: str) -> None:
    assert parse_assertion(DEEP[name]) is None
    assert PARTY.check_attestation(DEEP[name], CHALLENGE) is None
    # As what a page says too, and as CBOR.
    assertion, public_key = _assertions()
    _put(assertion, "response.clientDataJSON", encode(DEEP[name].encode("utf-8", "surrogatepass")))
    assert not _signed(assertion, public_key)


@pytest.mark.parametrize("raw", [b"\x81", b"\xc1", b"\xa1\x01", b"\xd8\x1c\x81", b"\xd8\x23\x61("])
def test_deep_cbor_is_refused(raw: bytes) -> None:
    credential = Authenticator(ORIGIN).create(_creation())
    for deep in (raw * 3_000, raw * 3_000 + b"\x01"):
        _put(credential, "response.attestationObject", encode(deep))
        assert not _taken(credential)


@pytest.mark.parametrize(
    ("origins", "domain"),
    [
        (("https://example.com",), "example.com"),
        (("https://login.example.com:8443", "https://example.com"), "example.com"),
        (("https://xn--bcher-kva.example",), "xn--bcher-kva.example"),
        (("http://localhost", "http://localhost:3000", "https://localhost"), "localhost"),
    ],
)
def test_origins_of_the_domain(origins: tuple[str, ...], domain: str) -> None:
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
def test_other_origins_are_refused(origin: str, domain: str) -> None:
    with pytest.raises(ValidationError):
        PasskeySettings(origins=(origin,), relying_party_id=domain)


def test_a_credential_shows_no_key() -> None:
    assert "key" not in repr(Credential("localhost", b"handle"))
