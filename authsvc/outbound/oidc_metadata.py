"""Owns what an OpenID Connect provider says of itself (Discovery 1.0), and for how long it is used.

Every member comes from the provider: none is used that is not of its kind.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import structlog

from authsvc.errors import ProviderUnavailable
from authsvc.models.clock import Clock
from authsvc.outbound.http import JsonClient, JsonObject

_MAX_AGE = timedelta(hours=1)
_DEFAULT_METHODS = ["client_secret_basic"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Metadata:
    """A provider's pages, its keys (JSON Web Keys), and when it told of them.

    `basic` says that clients log in to the token endpoint by HTTP's Basic scheme, and not by form.
    """

    fetch_time: datetime
    authorization_endpoint: str
    token_endpoint: str
    basic: bool
    keys: Sequence[Mapping[str, Any]]


class MetadataCache:
    """Asks a provider what it says of itself, and uses it for an hour."""

    def __init__(self, issuer: str, client: JsonClient, clock: Clock) -> None:
        self._issuer = issuer
        self._client = client
        self._clock = clock
        self._known: Metadata | None = None
        self._fetching = asyncio.Lock()

    async def get(self, unfit: Metadata | None = None) -> Metadata:
        """Return what the provider says of itself; asked anew if what is known is `unfit`.

        Raises:
            ProviderUnavailable: It doesn't say so in time, or is another issuer.
        """
        async with self._fetching:
            known = self._known
            if known is None or known is unfit or self._is_old(known):
                self._known = known = await self._fetch()
            return known

    def _is_old(self, known: Metadata) -> bool:
        return self._clock.now() - known.fetch_time >= _MAX_AGE

    async def _fetch(self) -> Metadata:
        address = self._issuer.rstrip("/") + "/.well-known/openid-configuration"
        document = (await self._client.get(address)).object()
        # Section 4.3: identical, or who answers could pass for another provider.
        if document.get("issuer") != self._issuer:
            log.warning("issuer_differs", issuer=self._issuer)
            raise ProviderUnavailable
        methods = document.get("token_endpoint_auth_methods_supported", _DEFAULT_METHODS)
        keys = (await self._client.get(self._endpoint(document, "jwks_uri"))).object().get("keys")
        if not isinstance(keys, list):
            raise ProviderUnavailable
        return Metadata(
            self._clock.now(),
            self._endpoint(document, "authorization_endpoint"),
            self._endpoint(document, "token_endpoint"),
            isinstance(methods, list) and "client_secret_basic" in methods,
            [key for key in keys if isinstance(key, dict)],
        )

    def _endpoint(self, document: JsonObject, name: str) -> str:
        """Return an address: https, or on this machine if the issuer itself is there."""
        address, issuer = document.get(name), urlsplit(self._issuer)
        origin = f"{issuer.scheme}://{issuer.netloc}/"
        if not isinstance(address, str) or not address.startswith(("https://", origin)):
            raise ProviderUnavailable
        return address
