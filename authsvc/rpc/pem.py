r"""Owns the reading of PEM files, as they are found: certificates, and a private key.

Files come from authorities, scripts and secret stores: joined without a newline, with a byte-order
mark, text between the blocks, indented, with Windows line ends, or with `\n` written out. TLS
libraries disagree about these, so nothing is passed on as it was found: what is read here is
written again in one form.
"""

import base64
import re
from collections.abc import Iterator

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_private_key

_BEGIN = b"-----BEGIN "
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_CERTIFICATES = frozenset({"CERTIFICATE", "X509 CERTIFICATE"})
_KEYS = frozenset({"PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"})
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_DER = b"\x30"


class PemError(ValueError):
    """The content can't be used; the message completes a sentence that begins with the file."""


def read_certificates(content: bytes) -> list[x509.Certificate]:
    """Return all certificates of a file in order, without repetitions; there is at least one.

    Raises:
        PemError: There is none, or one is damaged.
    """
    blocks = list(_blocks(content))
    found = [body for label, body in blocks if label in _CERTIFICATES]
    if not found:
        raise PemError(f"contains no certificate{_instead(content, blocks)}")
    try:
        certificates = [x509.load_der_x509_certificate(_decode(body)) for body in found]
    except ValueError as error:
        raise PemError(f"contains a damaged certificate: {error}") from None
    return list(dict.fromkeys(certificates))


def read_private_key(content: bytes) -> PrivateKeyTypes:
    """Return the only private key of a file.

    Raises:
        PemError: There is none or more than one, or it is encrypted, damaged, or of an unknown
            kind.
    """
    blocks = list(_blocks(content))
    if any(label == "ENCRYPTED PRIVATE KEY" or b",ENCRYPTED" in body for label, body in blocks):
        raise PemError("contains an encrypted private key; store it without a passphrase")
    keys = [body for label, body in blocks if label in _KEYS]
    if not keys:
        raise PemError(f"contains no private key{_instead(content, blocks)}")
    if len(keys) > 1:
        raise PemError(f"contains {len(keys)} private keys; expected one")
    try:
        return load_der_private_key(_decode(keys[0]), password=None)
    except UnsupportedAlgorithm:
        raise PemError("contains a private key of an unsupported kind") from None
    except (ValueError, TypeError):
        # Without the cause, which may quote the key.
        raise PemError("contains a damaged private key") from None


def _blocks(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the label and the body of each block; what surrounds blocks is not looked at."""
    if content.startswith(_UTF_16):
        content = content.decode("utf-16", "replace").encode()
    count = 0
    for label, body in _BLOCK.findall(content):
        count += 1
        yield label.decode(), body
    if count != content.count(_BEGIN):
        raise PemError("contains a block that is cut off: BEGIN without the same END")


def _decode(body: bytes) -> bytes:
    return base64.b64decode(b"".join(body.replace(b"\\n", b"").split()), validate=True)


def _instead(content: bytes, blocks: list[tuple[str, bytes]]) -> str:
    if blocks:
        return f", only {', '.join(dict.fromkeys(label for label, _ in blocks))}"
    if content.startswith(_DER):
        return "; it seems to be DER, expected PEM"
    return ": it is empty" if not content.strip() else ""
