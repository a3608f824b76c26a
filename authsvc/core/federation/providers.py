"""Owns the interface to identity providers, and the parsing of the identities they return."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol, Self

import structlog

from authsvc.core.lib.emails import MAX_EMAIL_BYTES
from authsvc.errors import ProviderUnavailable

_MAX_SUBJECT = 256
_MAX_NAME = 256

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ExternalIdentity:
    """A user as known to a provider; whatever the provider does not return is "".

    `subject` is the user's id there, and the only value that identifies a user (ASVS 6.8.1).
    `missing` says for the log why the address is not verified, without any value.
    """

    subject: str
    email: str = field(default="", repr=False)
    email_verified: bool = False
    display_name: str = field(default="", repr=False)
    missing: str = field(default="", compare=False)

    @classmethod
    def parse(
        cls, subject: object, *, email: object, email_verified: object, display_name: object
    ) -> Self | None:
        """Return the user described by values of a provider's JSON, or None if it is none.

        The subject has to be 1 to 256 bytes of printable text and is never altered. An unusable
        address becomes ""; a name is cleaned and truncated. An address counts as verified only if
        the provider says `true` or, as Apple and Cognito do, "true".
        """
        if not isinstance(subject, str) or not subject or _clean(subject, _MAX_SUBJECT) != subject:
            return None
        address = (
            email if isinstance(email, str) and _clean(email, MAX_EMAIL_BYTES) == email else ""
        )
        missing = _missing(email, address, email_verified)
        return cls(
            subject,
            address,
            not missing,
            _clean(display_name, _MAX_NAME) if isinstance(display_name, str) else "",
            missing,
        )


@dataclass(frozen=True, slots=True)
class AuthorizationAnswer:
    """What a provider added to the redirect URI; `issuer` is "" without RFC 9207's `iss`."""

    code: str = field(repr=False)
    issuer: str = ""


class Provider(Protocol):
    """An identity provider with authorization code and PKCE (RFC 6749, RFC 7636)."""

    async def authorization_url(
        self, state: str, nonce: str, code_challenge: str, redirect_uri: str
    ) -> str:
        """Return the URL to send the user's browser to; the challenge is S256.

        Raises:
            ProviderUnavailable: The URL has to be looked up at the provider, and that failed.
            ProviderMisconfigured: An operator has to mend something; the log says what.
        """

    async def identify(
        self, answer: AuthorizationAnswer, verifier: str, nonce: str, redirect_uri: str
    ) -> ExternalIdentity:
        """Return the user for whom the provider issued this code.

        Raises:
            FieldInvalid: The answer has no issuer, although this provider sends it.
            Unauthenticated: CREDENTIALS_INVALID: the answer is another provider's, the provider
                rejected the code, or its response can't be trusted.
            ProviderUnavailable: The provider did not answer in time, or answered incorrectly.
            ProviderMisconfigured: An operator has to mend something; the log says what.
        """

    async def check(self) -> None:
        """Use what a login uses, with a code that nobody was given.

        Raises:
            ProviderUnavailable: The provider did not answer in time, or answered incorrectly.
            ProviderMisconfigured: An operator has to mend something; the log says what.
        """


class Providers:
    """The configured providers by name; `timeout` covers all requests of one use."""

    def __init__(self, providers: Mapping[str, Provider], timeout: timedelta) -> None:
        self._providers = providers
        self._timeout = timeout.total_seconds()

    def __contains__(self, name: str) -> bool:
        return name in self._providers

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Provider]:
        """Yield the provider of this name; raise ProviderUnavailable on a timeout."""
        try:
            async with asyncio.timeout(self._timeout):
                yield self._providers[name]
        except TimeoutError:
            log.warning("provider_failed", provider=name, error="timeout")
            raise ProviderUnavailable from None


def _missing(email: object, address: str, verified: object) -> str:
    """Return what keeps an address from being verified, or ""."""
    if not address:
        return "email is absent" if email in (None, "") else "email is not an address"
    if verified is True or verified == "true":
        return ""
    if verified is None:
        return "email_verified is absent"
    return (
        "email_verified is false" if verified in (False, "false") else "email_verified is neither"
    )


def _clean(text: str, max_bytes: int) -> str:
    """Return `text` without unprintable characters, truncated to `max_bytes`."""
    printable = "".join(character for character in text if character.isprintable())
    return printable.encode(errors="ignore")[:max_bytes].decode(errors="ignore")
