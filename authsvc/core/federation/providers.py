"""Owns what a provider of identities is asked, and what is taken from its answer."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol, Self

from authsvc.core.lib.emails import MAX_EMAIL_BYTES
from authsvc.errors import ProviderUnavailable

_MAX_SUBJECT = 256
_MAX_NAME = 256


@dataclass(frozen=True, slots=True)
class ExternalIdentity:
    """A user as a provider knows it; what the provider doesn't tell is "".

    `subject` is the user's id there, the only thing to tell users apart by (ASVS 6.8.1).
    """

    subject: str
    email: str = field(default="", repr=False)
    email_verified: bool = False
    display_name: str = field(default="", repr=False)

    @classmethod
    def parse(
        cls, subject: object, *, email: object, email_verified: object, display_name: object
    ) -> Self | None:
        """Return the user that values of a provider's JSON tell of; None: it is nobody.

        A subject is 1 to 256 bytes of printable text and taken as it is, or not at all. Of an
        address or a name that can't be used nothing is taken. An address is verified if the
        provider says `true`, not if it says something that only means so.
        """
        if not isinstance(subject, str) or not subject or _clean(subject, _MAX_SUBJECT) != subject:
            return None
        address = (
            email if isinstance(email, str) and _clean(email, MAX_EMAIL_BYTES) == email else ""
        )
        return cls(
            subject,
            address,
            email_verified is True and bool(address),
            _clean(display_name, _MAX_NAME) if isinstance(display_name, str) else "",
        )


class Provider(Protocol):
    """A provider of identities by authorization code with PKCE (RFC 6749, RFC 7636)."""

    async def authorization_url(
        self, state: str, nonce: str, code_challenge: str, redirect_uri: str
    ) -> str:
        """Return the page to send the user's browser to; the challenge is S256.

        Raises:
            ProviderUnavailable: The provider has to be asked for the page, and doesn't tell.
        """

    async def identify(
        self, code: str, verifier: str, nonce: str, redirect_uri: str
    ) -> ExternalIdentity:
        """Return the user whom the provider gave this code for.

        Raises:
            Unauthenticated: CREDENTIALS_INVALID: the code is refused, or what comes for it can't be
                trusted.
            ProviderUnavailable: The provider didn't answer in time or not as it should.
        """


class Providers:
    """The providers of the settings, by name; each gets `timeout` for all that one call asks."""

    def __init__(self, providers: Mapping[str, Provider], timeout: timedelta) -> None:
        self._providers = providers
        self._timeout = timeout.total_seconds()

    def __contains__(self, name: str) -> bool:
        return name in self._providers

    @asynccontextmanager
    async def asked(self, name: str) -> AsyncIterator[Provider]:
        """Lend the provider of this name; what isn't done in time raises ProviderUnavailable."""
        try:
            async with asyncio.timeout(self._timeout):
                yield self._providers[name]
        except TimeoutError:
            raise ProviderUnavailable from None


def _clean(text: str, max_bytes: int) -> str:
    """Return `text` without what can't be printed or stored, and cut to this many bytes."""
    printable = "".join(character for character in text if character.isprintable())
    return printable.encode(errors="ignore")[:max_bytes].decode(errors="ignore")
