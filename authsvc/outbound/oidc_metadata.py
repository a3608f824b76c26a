"""Owns the metadata of OpenID Connect providers (Discovery 1.0) and its caching.

All members come from the provider, so their types are checked before use.
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
    """A provider's endpoints and keys (JSON Web Keys), and when they were fetched.

    `basic` tells whether clients authenticate to the token endpoint with HTTP Basic or in the form.
    """

    fetch_time: datetime
    authorization_endpoint: str
    token_endpoint: str
    basic: bool
    keys: Sequence[Mapping[str, Any]]


class MetadataCache:
    """Fetches a provider's metadata and caches it for an hour."""

    def __init__(self, issuer: str, client: JsonClient, clock: Clock) -> None:
        self._issuer = issuer
        self._client = client
        self._clock = clock
        self._cached: Metadata | None = None
        self._fetching = asyncio.Lock()

    async def get(self, stale: Metadata | None = None) -> Metadata:
        """Return the metadata, fetched again if the cached one is `stale`.

        Raises:
            ProviderUnavailable: The provider doesn't answer in time, or is another issuer.
        """
        async with self._fetching:
            cached = self._cached
            if cached is None or cached is stale or self._is_expired(cached):
                self._cached = cached = await self._fetch()
            return cached

    def _is_expired(self, metadata: Metadata) -> bool:
        return self._clock.now() - metadata.fetch_time >= _MAX_AGE

    async def _fetch(self) -> Metadata:
        address = self._issuer.rstrip("/") + "/.well-known/openid-configuration"
        document = (await self._client.get(address)).object()
        # Section 4.3: they must be identical, or the server could pass for another provider.
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
        """Return the URL of an endpoint, which must be https or on the issuer's own origin."""
        address, issuer = document.get(name), urlsplit(self._issuer)
        origin = f"{issuer.scheme}://{issuer.netloc}/"
        if not isinstance(address, str) or not address.startswith(("https://", origin)):
            raise ProviderUnavailable
        return address
