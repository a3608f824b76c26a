"""Owns who is calling: from the client certificate to an identity, and from that to its roles.

The subject's common name is never looked at, nor gRPC's `peer_identities()`, which mixes kinds of
names: a DNS name that reads `spiffe://…` would pass for a URI.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from authsvc.config import CallerSettings
from authsvc.errors import CallerNotAllowed
from authsvc.models.calls import Caller
from authsvc.models.clock import Clock

_CACHE_SIZE = 4_096
# The cache's key is the end of the certificate, most of its signature: hashing a whole one takes
# microseconds, comparing it none.
_KEY_BYTES = 96

# SPIFFE-ID, sections 2.1 to 2.4: lower-case trust domain, non-empty path without "." and ".."
# segments and without a slash at its end, 2048 bytes at the most.
_SPIFFE_ID = re.compile(
    r"spiffe://[a-z0-9._-]{1,255}(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)+", re.ASCII
)
_DNS_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*", re.ASCII)


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What was read from a certificate; `flaw` says why it carries no identity ("": it does)."""

    pem: bytes = field(repr=False)
    caller: Caller
    not_before: datetime
    not_after: datetime
    flaw: str


class _Unusable(Exception):
    """A certificate carries no identity; the text says why, for the log."""


class Callers:
    """Knows the calling services: certificate in, `Caller` out.

    What a certificate says is read once and cached by its bytes; whether it is valid *now* is
    asked on every call, as open connections and resumed TLS sessions outlive certificates.
    """

    def __init__(self, callers: Sequence[CallerSettings], clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, CallerSettings] = {}
        self._cache: dict[bytes, ClientCertificate] = {}
        self.replace(callers)

    def replace(self, callers: Sequence[CallerSettings]) -> None:
        """Put `callers` in place of those known so far; holds from the next call on."""
        self._known = {caller.identity: caller for caller in callers}
        self._cache = {}

    def identify(self, certificate_pem: bytes) -> ClientCertificate:
        """Return what a certificate says; one without an identity gives a caller without roles.

        Raises CallerNotAllowed for a certificate that is not valid now or can't be read.
        """
        known = self._cache.get(certificate_pem[-_KEY_BYTES:])
        if known is None or known.pem != certificate_pem:
            known = self._read(certificate_pem)
        if not known.not_before <= self._clock.now() < known.not_after:
            raise refused("the certificate is not valid now")
        return known

    def _read(self, certificate_pem: bytes) -> ClientCertificate:
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
        except ValueError as error:
            raise refused("the certificate can't be parsed") from error
        try:
            identity, flaw = _identity(certificate), ""
        except (_Unusable, ValueError, x509.DuplicateExtension) as error:
            identity, flaw = "", str(error)
        known = ClientCertificate(
            pem=certificate_pem,
            caller=self._caller(identity, certificate),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            flaw=flaw,
        )
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        self._cache[certificate_pem[-_KEY_BYTES:]] = known
        return known

    def _caller(self, identity: str, certificate: x509.Certificate) -> Caller:
        known = self._known.get(identity)
        return Caller(
            identity=identity,
            roles=known.roles if known else frozenset(),
            thumbprint=certificate.fingerprint(SHA256()),
            certificate_expire_time=certificate.not_valid_after_utc,
            audiences=known.audiences if known else frozenset(),
            scopes=known.scopes if known else frozenset(),
        )


def refused(cause: str) -> CallerNotAllowed:
    """Return the one answer to a caller that may not call; `cause` is a note for the log."""
    error = CallerNotAllowed()
    error.add_note(cause)
    return error


def _identity(certificate: x509.Certificate) -> str:
    """Return the identity by the rules for an X.509-SVID leaf (X509-SVID, sections 2 to 4)."""
    for extension in certificate.extensions:
        match extension.value:
            case x509.BasicConstraints(ca=True):
                raise _Unusable("it is a certificate authority's")
            case x509.KeyUsage(key_cert_sign=True) | x509.KeyUsage(crl_sign=True):
                raise _Unusable("its key may sign certificates or revocation lists")
            case _:
                pass
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise _Unusable("it has no alternative name") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if uris:
        return _spiffe_identity(uris)
    return _dns_identity(names.get_values_for_type(x509.DNSName))


def _spiffe_identity(uris: Sequence[str]) -> str:
    if len(uris) > 1:
        raise _Unusable("it has more than one URI name")
    if len(uris[0]) > 2_048 or not _SPIFFE_ID.fullmatch(uris[0]):
        raise _Unusable("its URI name is not a SPIFFE id with a path")
    return uris[0]


def _dns_identity(names: Sequence[str]) -> str:
    if len(names) != 1:
        raise _Unusable("it has no URI name, and not exactly one DNS name")
    name = names[0].lower()
    if len(name) > 253 or not _DNS_NAME.fullmatch(name):
        raise _Unusable("its DNS name is not a host name")
    return f"dns:{name}"
