"""Owns the metadata of OpenID Connect providers (Discovery 1.0) and its caching.

All members come from the provider, so their types are checked before use.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import structlog

from authsvc.errors import ProviderMisconfigured
from authsvc.models.clock import Clock
from authsvc.outbound.answers import JsonObject
from authsvc.outbound.http import JsonClient

_MAX_AGE = timedelta(hours=1)
_DEFAULT_METHODS = ["client_secret_basic"]
# What is logged of an issuer that is not the configured one.
_URL = re.compile(r"https?://[!-~]{1,200}")
_ONE_TENANT = (
    "set address to https://login.microsoftonline.com/TENANT-ID/v2.0 with your tenant's id"
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Metadata:
    """A provider's endpoints and keys (JSON Web Keys), and when they were fetched.

    `basic` tells whether clients authenticate to the token endpoint with HTTP Basic or in the form;
    `sends_issuer` whether redirects carry `iss` (RFC 9207). `userinfo_endpoint` may be "".
    """

    fetch_time: datetime
    issuer: str
    sends_issuer: bool
    authorization_endpoint: str
    token_endpoint: str
    userinfo_endpoint: str
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
            ProviderUnavailable: The provider doesn't answer in time.
            ProviderMisconfigured: It is another issuer, or its address or its metadata is wrong.
        """
        async with self._fetching:
            cached = self._cached
            if cached is None or cached is stale or self._is_expired(cached):
                self._cached = cached = await self._fetch()
            return cached

    def _is_expired(self, metadata: Metadata) -> bool:
        return self._clock.now() - metadata.fetch_time >= _MAX_AGE

    async def _fetch(self) -> Metadata:
        address = self._issuer.removesuffix("/") + "/.well-known/openid-configuration"
        document = (await self._client.get(address)).members()
        issuer = self._checked_issuer(document)
        methods = document.get("token_endpoint_auth_methods_supported", _DEFAULT_METHODS)
        answer = await self._client.get(self._endpoint(document, "jwks_uri"))
        keys = answer.members().get("keys")
        if not isinstance(keys, list):
            raise answer.failure()
        return Metadata(
            self._clock.now(),
            issuer,
            document.get("authorization_response_iss_parameter_supported") is True,
            self._endpoint(document, "authorization_endpoint"),
            self._endpoint(document, "token_endpoint"),
            self._endpoint(document, "userinfo_endpoint")
            if "userinfo_endpoint" in document
            else "",
            isinstance(methods, list) and "client_secret_basic" in methods,
            [key for key in keys if isinstance(key, dict)],
        )

    def _checked_issuer(self, document: JsonObject) -> str:
        """Return the provider's issuer as it writes it, with or without a slash at the end.

        Section 4.3: it must be the configured one, or the server could pass for another provider.
        Two that differ in that slash have the same metadata (section 4.1), so they are the same.
        """
        issuer = document.get("issuer")
        if isinstance(issuer, str) and issuer.removesuffix("/") == self._issuer.removesuffix("/"):
            return issuer
        shown = issuer if isinstance(issuer, str) and _URL.fullmatch(issuer) else "no URL"
        log.error(
            "issuer_differs",
            provider=self._client.provider,
            configured=self._issuer,
            issuer=shown,
            mend=_ONE_TENANT if "{tenantid}" in shown else "set address to the provider's issuer",
        )
        raise ProviderMisconfigured

    def _endpoint(self, document: JsonObject, name: str) -> str:
        """Return the URL of an endpoint, which must be https or on the issuer's own origin."""
        address, issuer = document.get(name), urlsplit(self._issuer)
        origin = f"{issuer.scheme}://{issuer.netloc}/"
        if not isinstance(address, str) or not address.startswith(("https://", origin)):
            problem = "missing" if address is None else "neither https nor on the issuer's host"
            log.error(
                "provider_misconfigured",
                provider=self._client.provider,
                host=issuer.netloc,
                endpoint=name,
                problem=problem,
            )
            raise ProviderMisconfigured
        return address
