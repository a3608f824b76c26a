"""Owns the settings of logins at other providers."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from authsvc.config.types import Address, Duration, ProviderName, RedirectUri, Section

_DISCOVERY = "/.well-known/openid-configuration"
# Entra's addresses for the users of several tenants, whose metadata has a template for an issuer.
_ENTRA_FOR_ALL = re.compile(
    r"https://login\.microsoftonline\.(com|us)/(common|organizations|consumers)\b", re.IGNORECASE
)
Scope = Annotated[str, Field(pattern=r"^[!#-\[\]-~]{1,128}$")]  # RFC 6749, section 3.3


class ProviderSettings(Section):
    """An identity provider."""

    kind: Literal["github", "oidc"]
    client_id: str = Field(min_length=1, max_length=256)
    client_secret: SecretStr
    address: Address = Field("https://github.com", description="Its base URL; for oidc the issuer.")
    api_address: Address = Field("https://api.github.com", description="The URL of GitHub's API.")
    scopes: tuple[Scope, ...] = Field(
        default=("openid", "email", "profile"),
        min_length=1,
        description="For oidc: what is asked for; Apple knows openid, email and name.",
    )
    response_mode: Literal["query", "form_post"] = Field(
        default="query",
        description="For oidc: how the browser returns; form_post, which Apple requires, is a "
        "POST to the redirect URI.",
    )
    trust_unmarked_email: bool = Field(
        default=False,
        description="Whether an address counts as verified if the provider doesn't say: only for "
        "one that assigns all addresses itself, such as your organization's Entra tenant.",
    )
    ca_file: Path | None = Field(
        default=None, description="The CAs to trust; by default the system's."
    )

    @model_validator(mode="after")
    def _issuer_is_given(self) -> Self:
        if self.kind == "oidc" and "address" not in self.model_fields_set:
            raise ValueError("kind is 'oidc', so address must be set")
        return self

    @model_validator(mode="after")
    def _address_is_an_issuer(self) -> Self:
        if self.address.rstrip("/").endswith(_DISCOVERY):
            raise ValueError(f"address must be without {_DISCOVERY}")
        if "{" in self.address or _ENTRA_FOR_ALL.match(self.address):
            raise ValueError(
                "address names no single issuer; for Entra it is "
                "https://login.microsoftonline.com/TENANT-ID/v2.0, with the id of one tenant"
            )
        return self

    @model_validator(mode="after")
    def _openid_is_asked_for(self) -> Self:
        if self.kind == "oidc" and "openid" not in self.scopes:
            raise ValueError("scopes must contain openid")
        return self


class OAuthSettings(Section):
    """Logins at other providers."""

    providers: dict[ProviderName, ProviderSettings] = Field(default_factory=dict)
    redirect_uris: tuple[RedirectUri, ...] = Field(
        default=(),
        description="The URIs that providers may redirect browsers to, compared exactly.",
    )
    state_lifetime: Duration = timedelta(minutes=10)
    timeout: Duration = Field(
        timedelta(seconds=5), description="For all requests to a provider during one login."
    )
    max_answer_bytes: int = Field(262_144, ge=1_024, le=4_194_304)
