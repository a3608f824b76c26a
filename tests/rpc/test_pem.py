"""PEM files as they are found: what they contain, and what is wrong with them."""

import textwrap
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from authsvc.rpc.pem import PemError, read_certificates, read_private_key
from tests.support.certificates import Authority

Change = Callable[[bytes], bytes]

EC_PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
TEXT = "Subject: CN=Größe\n  i:C = DE, O = Example -- ----\n".encode()

CHANGES: dict[str, Change] = {
    "as written": lambda pem: pem,
    "without a newline at the end": bytes.strip,
    "byte-order mark": lambda pem: b"\xef\xbb\xbf" + pem,
    "UTF-16": lambda pem: pem.decode().encode("utf-16"),
    "CRLF": lambda pem: pem.replace(b"\n", b"\r\n"),
    "CR": lambda pem: pem.replace(b"\n", b"\r"),
    "text before and after": lambda pem: TEXT + pem + TEXT,
    "NUL at the end": lambda pem: pem + b"\0",
    "indented": lambda pem: textwrap.indent(pem.decode(), "    ").encode(),
    "trailing blanks": lambda pem: pem.replace(b"\n", b" \t\n"),
    "written-out newlines": lambda pem: pem.replace(b"\n", b"\\n"),
    "on one line": lambda pem: pem.replace(b"\n", b""),
    "empty lines": lambda pem: pem.replace(b"\n", b"\n\n"),
}
changed = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


@changed
def test_certificates_are_read(change: Change, authority: Authority) -> None:
    first, second = authority.server(), authority.server()
    content = change(first.certificate) + change(second.certificate).removeprefix(b"\xff\xfe")
    assert read_certificates(content) == [first.parsed, second.parsed]


@changed
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("kind", ["EC", "RSA"])
def test_private_key_is_read(kind: str, form: PrivateFormat, change: Change) -> None:
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = EC if kind == "EC" else RSA
    content = change(key.private_bytes(Encoding.PEM, form, NoEncryption()))
    assert read_private_key(content).public_key() == key.public_key()


EC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65_537, 2_048)
KEY = EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
OTHER = x25519.X25519PrivateKey.generate().private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
)


def test_certificate_and_key_may_share_a_file(authority: Authority) -> None:
    server = authority.server()
    for content in (server.certificate + server.key, server.key + server.certificate):
        assert read_certificates(content) == [server.parsed]
        assert read_private_key(content).public_key() == server.parsed.public_key()


def test_parameters_before_the_key_are_ignored() -> None:
    traditional = EC.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert read_private_key(EC_PARAMETERS + traditional).public_key() == EC.public_key()


def test_repeated_certificate_is_read_once(authority: Authority) -> None:
    server = authority.server()
    chain = server.certificate + authority.certificate + server.certificate
    assert len(read_certificates(chain)) == 2


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_encrypted_key_is_named(form: PrivateFormat) -> None:
    content = EC.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"passphrase"))
    with pytest.raises(PemError, match="contains an encrypted private key"):
        read_private_key(content)


SSH = EC.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "contains no certificate: it is empty"),
        (b" \r\n", "contains no certificate: it is empty"),
        (b"rubbish", "contains no certificate$"),
        (KEY, "contains no certificate, only PRIVATE KEY"),
        (Authority().server().der, "contains no certificate; it seems to be DER, expected PEM"),
        (Authority().certificate[:-30], "contains a block that is cut off"),
        (Authority().certificate + b"-----BEGIN CERTIFICATE-----\nMII", "a block that is cut off"),
        (KEY.replace(b"END PRIVATE", b"END PUBLIC"), "contains a block that is cut off"),
        (Authority().certificate.replace(b"M", b"!", 1), "contains a damaged certificate"),
        (Authority().certificate.replace(b"MII", b"MIJ", 1), "contains a damaged certificate"),
    ],
)
def test_useless_certificate_file_is_explained(content: bytes, problem: str) -> None:
    with pytest.raises(PemError, match=problem):
        read_certificates(content)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "contains no private key: it is empty"),
        (Authority().certificate, "contains no private key, only CERTIFICATE"),
        (EC_PARAMETERS, "contains no private key, only EC PARAMETERS"),
        (SSH, "contains no private key, only OPENSSH PRIVATE KEY"),
        (KEY + KEY, "contains 2 private keys; expected one"),
        (KEY[:-12], "contains a block that is cut off"),
        (KEY.replace(b"MIG", b"MIH", 1), "contains a damaged private key$"),
    ],
)
def test_useless_key_file_is_explained(content: bytes, problem: str) -> None:
    with pytest.raises(PemError, match=problem):
        read_private_key(content)


def test_unusual_keys_are_read_all_the_same() -> None:
    """Which kinds may be used is not a matter of the file."""
    key = dsa.generate_private_key(1_024)
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert read_private_key(content).public_key() == key.public_key()
    assert isinstance(read_private_key(OTHER), x25519.X25519PrivateKey)
