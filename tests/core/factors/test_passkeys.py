"""The relying party's options for passkeys, and the responses that it accepts."""

import json
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pydantic import ValidationError

from authsvc.config import PasskeySettings
from authsvc.core.factors.relying_party import RelyingParty, parse_assertion
from authsvc.dev.authenticator import Authenticator, Credential, encode
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
from tests.support.passkeys import ORIGIN, STATEMENTS, SoftDevice, state

APP = "android:apk-key-hash:-sYXRdwJA3hvue3mKpYrOZ9zSPC7b4mbgzJmdZEDO5w"


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


def _drop(name: str, attestation: dict[str, Any]) -> None:
    del attestation[name]


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


@pytest.mark.parametrize("name", STATEMENTS)
def test_attestation_of_every_format_is_accepted_as_none(name: str) -> None:
    credential = Authenticator(ORIGIN, synced=True).create(creation_options())
    plain = PARTY.check_attestation(json.dumps(credential), CHALLENGE)
    stated = PARTY.check_attestation(json.dumps(state(credential, name)), CHALLENGE)
    assert plain is not None
    assert plain.backup_eligible
    assert stated == plain


def test_malformed_attestation_is_rejected() -> None:
    assert is_taken(with_attestation(lambda _: None))
    for change in (
        {"fmt": ["none"]},
        {"fmt": None},
        {"fmt": ""},
        {"fmt": b"none"},
        {"fmt": "pack\ned"},
        {"fmt": "p" * 33},
        {"fmt": "packed", "attStmt": None},
        {"fmt": "packed", "attStmt": b"x"},
        {"attStmt": {"sig": b"x"}},
        {"attStmt": {"unknown": b"x"}},
        {"authData": b""},
        {"authData": "x"},
    ):
        assert not is_taken(with_attestation(partial(update, change))), change
    for name in ("fmt", "attStmt", "authData"):
        assert not is_taken(with_attestation(partial(_drop, name))), name


@pytest.mark.parametrize("name", STATEMENTS)
def test_statement_exempts_from_no_other_check(name: str) -> None:
    for changed in ({"origin": "https://evil.test"}, {"challenge": "AAAA"}, {"crossOrigin": True}):
        credential = Authenticator(ORIGIN).create(creation_options(), client_data=changed)
        assert not is_taken(state(credential, name)), changed
    device = Authenticator(ORIGIN)
    device.present = False
    assert not is_taken(state(device.create(creation_options()), name))
    key = with_key(_ec_key(ec.SECP384R1(), -7, 2))
    assert not is_taken(state(key, name))


def test_presence_is_optional_only_for_conditional_creation() -> None:
    device = Authenticator(ORIGIN)
    device.present = device.verifies_user = False
    created = json.dumps(device.create(creation_options()))
    assert PARTY.check_attestation(created, CHALLENGE) is None
    assert PARTY.check_attestation(created, CHALLENGE, require_presence=False) is not None


def test_what_the_service_does_not_know_is_ignored() -> None:
    device = Authenticator(ORIGIN)
    device.extensions = {"credProtect": 2, "hmac-secret": True, "future": {"a": [1, b"x"]}}
    more = {"androidPackageName": "test.example", "futureMember": [{"a": None}], "topOrigin": None}
    unknown = {
        "authenticatorAttachment": "implant",
        "clientExtensionResults": {"credProps": {"rk": True}, "future": {"a": [1]}},
        "futureMember": 1,
    }
    created = device.create(creation_options(), client_data=more) | unknown
    created["response"] |= {
        "transports": ["internal", "telepathy", 7, ["usb"]],
        "publicKeyAlgorithm": -7,
        "publicKey": "AAAA",
        "futureMember": {},
    }
    taken = PARTY.check_attestation(json.dumps(created), CHALLENGE)
    assert taken is not None
    assert taken.transports == ("internal",)
    signed = device.get(request_options(), client_data=more) | unknown
    signed["response"] |= {"futureMember": {}}
    assert is_signed(signed, taken.public_key)


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


def test_independent_authenticator_is_accepted() -> None:
    device = SoftDevice()
    created = PARTY.check_attestation(json.dumps(device.create(creation_options())), CHALLENGE)
    assert created is not None
    assertion = device.get(request_options())
    assert is_signed(assertion, created.public_key, verified=False)
    assert not is_signed(assertion, created.public_key, verified=True)


def test_responses_from_apps_and_related_origins_are_accepted() -> None:
    related = "https://shop.example"
    party = RelyingParty(PasskeySettings(origins=(ORIGIN, APP), related_origins=(related,)))
    for origin, accepted in (
        (ORIGIN, True),
        (APP, True),
        (related, True),
        (APP[:-1] + "8", False),
        (APP.upper(), False),
        ("https://login.shop.example", False),
        ("http://shop.example", False),
    ):
        device = Authenticator(origin)
        created = party.check_attestation(json.dumps(device.create(creation_options())), CHALLENGE)
        assert (created is not None) is accepted, origin
        assertion = parse_assertion(json.dumps(device.get(request_options())))
        assert assertion is not None
        key = cbor2.dumps(device.credentials[0].public_key())
        signed = party.check_assertion(assertion, CHALLENGE, key, require_verification=True)
        assert (signed is not None) is accepted, origin


@pytest.mark.parametrize(
    ("origins", "domain"),
    [
        ((APP,), "example.com"),
        (("https://example.com", APP), "example.com"),
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
        ("android:apk-key-hash:", "example.com"),
        (APP[:-1], "example.com"),
        (f"{APP}=", "example.com"),
        # Not the encoding of 32 bytes: the last two bits are not 0.
        (f"{APP[:-1]}9", "example.com"),
        (APP.replace("-", "+"), "example.com"),
        (f"{APP}\n", "example.com"),
        ("android:apk-key-hash:" + ":".join(["A1"] * 32), "example.com"),
        ("ios:bundle-id:test.example", "example.com"),
    ],
)
def test_other_origins_are_rejected(origin: str, domain: str) -> None:
    with pytest.raises(ValidationError):
        PasskeySettings(origins=(origin,), relying_party_id=domain)


def test_bad_origin_of_app_says_what_is_expected() -> None:
    with pytest.raises(ValidationError, match=r"SHA-256 of the certificate.*43 characters"):
        PasskeySettings(origins=("android:apk-key-hash:A1:B2",))


@pytest.mark.parametrize(
    "origins",
    [
        ("https://localhost",),
        ("https://login.localhost:8443",),
        ("http://shop.example",),
        ("https://shop.example/",),
        ("https://*.shop.example",),
        (APP,),
        tuple(f"https://shop{number}.example" for number in range(101)),
    ],
)
def test_related_origins_are_pages_of_other_domains(origins: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        PasskeySettings(related_origins=origins)


def test_credential_repr_hides_key() -> None:
    assert "key" not in repr(Credential("localhost", b"handle"))
