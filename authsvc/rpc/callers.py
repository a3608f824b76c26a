"""Owns the identification of callers: from the client certificate to an identity and its roles.

The subject's common name is not used, and neither is gRPC's `peer_identities()`, which doesn't
distinguish types of names: a DNS name that reads `spiffe://…` would be taken for a URI.
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
# Only the end of a certificate, most of its signature, is the cache key: hashing all of it would
# take microseconds, while comparing it takes next to no time.
_KEY_BYTES = 96

# SPIFFE-ID, sections 2.1 to 2.4: lower-case trust domain, non-empty path without "." and ".."
# segments and without a trailing slash, at most 2048 bytes.
_SPIFFE_ID = re.compile(
    r"spiffe://[a-z0-9._-]{1,255}(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)+", re.ASCII
)
_DNS_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*", re.ASCII)


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The contents of a certificate; `flaw` says why it has no identity, or is "" if it has one.

    `key` says who is behind the certificate, for all that is bounded for each caller.
    """

    pem: bytes = field(repr=False)
    caller: Caller
    key: str
    not_before: datetime
    not_after: datetime
    flaw: str


class _Unusable(Exception):
    """A certificate has no identity; the text says why, for the log."""


class Callers:
    """Identifies calling services by their certificates.

    A certificate is parsed once and cached by its bytes, but its validity period is checked on
    every call, as open connections and resumed TLS sessions outlive certificates.
    """

    def __init__(self, callers: Sequence[CallerSettings], clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, CallerSettings] = {}
        self._cache: dict[bytes, ClientCertificate] = {}
        self.replace(callers)

    def replace(self, callers: Sequence[CallerSettings]) -> None:
        """Replace the known callers; takes effect from the next call on."""
        self._known = {caller.identity: caller for caller in callers}
        self._cache = {}

    def has_role(self, identity: str) -> bool:
        """Return whether a caller has any role; "" has none."""
        known = self._known.get(identity)
        return known is not None and bool(known.roles)

    def identify(self, certificate_pem: bytes) -> ClientCertificate:
        """Return a certificate's contents; without an identity, the caller has no roles.

        Raises:
            CallerNotAllowed: The certificate is outside its validity period, or can't be parsed.
        """
        known = self._cache.get(certificate_pem[-_KEY_BYTES:])
        if known is None or known.pem != certificate_pem:
            known = self._read(certificate_pem)
        if not known.not_before <= self._clock.now() < known.not_after:
            raise rejected("the certificate is outside its validity period")
        return known

    def _read(self, certificate_pem: bytes) -> ClientCertificate:
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
        except ValueError as error:
            raise rejected("the certificate can't be parsed") from error
        try:
            identity, flaw = _identity(certificate), ""
        except (_Unusable, ValueError, x509.DuplicateExtension) as error:
            identity, flaw = "", str(error)
        caller = self._caller(identity, certificate)
        known = ClientCertificate(
            pem=certificate_pem,
            caller=caller,
            # Otherwise all certificates without an identity would count as one caller.
            key=identity or caller.thumbprint.hex(),
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


def rejected(cause: str) -> CallerNotAllowed:
    """Return the same error for all rejected callers; `cause` is a note for the log."""
    error = CallerNotAllowed()
    error.add_note(cause)
    return error


def _identity(certificate: x509.Certificate) -> str:
    """Return the identity, by the rules for X.509-SVID leaves (X509-SVID, sections 2 to 4)."""
    for extension in certificate.extensions:
        match extension.value:
            case x509.BasicConstraints(ca=True):
                raise _Unusable("it is the certificate of an authority")
            case x509.KeyUsage(key_cert_sign=True) | x509.KeyUsage(crl_sign=True):
                raise _Unusable("its key may sign certificates or revocation lists")
            case _:
                pass
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise _Unusable("it has no subject alternative name") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if uris:
        return _spiffe_identity(uris)
    return _dns_identity(names.get_values_for_type(x509.DNSName))


def _spiffe_identity(uris: Sequence[str]) -> str:
    if len(uris) > 1:
        raise _Unusable("it has more than one URI")
    if len(uris[0]) > 2_048 or not _SPIFFE_ID.fullmatch(uris[0]):
        raise _Unusable("its URI is not a SPIFFE id with a path")
    return uris[0]


def _dns_identity(names: Sequence[str]) -> str:
    if len(names) != 1:
        raise _Unusable("it has neither a URI nor exactly one DNS name")
    name = names[0].lower()
    if len(name) > 253 or not _DNS_NAME.fullmatch(name):
        raise _Unusable("its DNS name is not a host name")
    return f"dns:{name}"
