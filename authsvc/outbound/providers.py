"""Owns the choice of the implementation for each identity provider, by the settings."""

import aiohttp

from authsvc.config import OAuthSettings, ProviderSettings
from authsvc.core.federation.providers import Provider, Providers
from authsvc.models.clock import Clock
from authsvc.outbound.github import GitHub
from authsvc.outbound.http import JsonClient
from authsvc.outbound.oidc import OpenIdConnect
from authsvc.outbound.proxy import ProxyRules


def open_providers(
    settings: OAuthSettings, http: aiohttp.ClientSession, proxies: ProxyRules, clock: Clock
) -> Providers:
    """Return the providers in the settings; all send their requests through `http`."""

    def build(name: str, provider: ProviderSettings) -> Provider:
        client = JsonClient(
            provider=name,
            session=http,
            timeout=settings.timeout.total_seconds(),
            max_bytes=settings.max_answer_bytes,
            ca_file=provider.ca_file,
            proxies=proxies,
        )
        if provider.kind == "github":
            return GitHub(provider, client)
        return OpenIdConnect(provider, client, clock)

    providers = {name: build(name, provider) for name, provider in settings.providers.items()}
    return Providers(providers, settings.timeout)
