"""Owns the interface to identity providers, and the parsing of the identities they return."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol, Self

from authsvc.errors import ProviderUnavailable

_MAX_SUBJECT = 256
_MAX_EMAIL = 254
_MAX_NAME = 256


@dataclass(frozen=True, slots=True)
class ExternalIdentity:
    """A user as known to a provider; whatever the provider does not return is "".

    `subject` is the user's id there, and the only value that identifies a user (ASVS 6.8.1).
    """

    subject: str
    email: str = field(default="", repr=False)
    email_verified: bool = False
    display_name: str = field(default="", repr=False)

    @classmethod
    def parse(
        cls, subject: object, *, email: object, email_verified: object, display_name: object
    ) -> Self | None:
        """Return the user described by values of a provider's JSON, or None if it is none.

        The subject has to be 1 to 256 bytes of printable text and is never altered. An unusable
        address becomes ""; a name is cleaned and truncated. An address counts as verified only if
        the provider says `true`, not another value that merely means it.
        """
        if not isinstance(subject, str) or not subject or _clean(subject, _MAX_SUBJECT) != subject:
            return None
        address = email if isinstance(email, str) and _clean(email, _MAX_EMAIL) == email else ""
        return cls(
            subject,
            address,
            email_verified is True and bool(address),
            _clean(display_name, _MAX_NAME) if isinstance(display_name, str) else "",
        )


class Provider(Protocol):
    """An identity provider with authorization code and PKCE (RFC 6749, RFC 7636)."""

    async def authorization_url(
        self, state: str, nonce: str, code_challenge: str, redirect_uri: str
    ) -> str:
        """Return the URL to send the user's browser to; the challenge is S256.

        Raises:
            ProviderUnavailable: The URL has to be looked up at the provider, and that failed.
        """

    async def identify(
        self, code: str, verifier: str, nonce: str, redirect_uri: str
    ) -> ExternalIdentity:
        """Return the user for whom the provider issued this code.

        Raises:
            Unauthenticated: CREDENTIALS_INVALID: the provider rejected the code, or its response
                can't be trusted.
            ProviderUnavailable: The provider did not answer in time, or answered incorrectly.
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
            raise ProviderUnavailable from None


def _clean(text: str, max_bytes: int) -> str:
    """Return `text` without unprintable characters, truncated to `max_bytes`."""
    printable = "".join(character for character in text if character.isprintable())
    return printable.encode(errors="ignore")[:max_bytes].decode(errors="ignore")
