"""Owns the choice of who answers for each provider of identities, as the settings say."""

import aiohttp

from authsvc.config import OAuthSettings, ProviderSettings
from authsvc.core.federation.providers import Provider, Providers
from authsvc.models.clock import Clock
from authsvc.outbound.github import GitHub
from authsvc.outbound.http import JsonClient
from authsvc.outbound.oidc import OpenIdConnect


def open_providers(settings: OAuthSettings, http: aiohttp.ClientSession, clock: Clock) -> Providers:
    """Return the providers of the settings; all are asked through `http`."""

    def make(provider: ProviderSettings) -> Provider:
        client = JsonClient(
            http,
            timeout=settings.timeout.total_seconds(),
            max_bytes=settings.max_answer_bytes,
            ca_file=provider.ca_file,
        )
        if provider.kind == "github":
            return GitHub(provider, client)
        return OpenIdConnect(provider, client, clock)

    made = {name: make(provider) for name, provider in settings.providers.items()}
    return Providers(made, settings.timeout)
