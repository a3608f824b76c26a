"""Owns the settings of logins at other providers."""

import re
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from authsvc.config.types import (
    Address,
    Between,
    Duration,
    FilePath,
    Form,
    ProviderName,
    RedirectUri,
    Section,
)

_DISCOVERY = "/.well-known/openid-configuration"
# Entra's addresses for the users of several tenants, whose metadata has a template for an issuer.
_ENTRA_FOR_ALL = re.compile(
    r"https://login\.microsoftonline\.(com|us)/(common|organizations|consumers)\b", re.IGNORECASE
)
Scope = Annotated[str, Field(pattern=r"^[!#-\[\]-~]{1,128}$")]  # RFC 6749, section 3.3


class ProviderSettings(Section):
    """An identity provider."""

    kind: Literal["github", "oidc"] = Field(description="GitHub, or any OpenID Connect provider.")
    client_id: Annotated[str, Form("[ -~]{1,256}", "1 to 256 printable ASCII characters")] = Field(
        description="From the provider."
    )
    client_secret: SecretStr = Field(description="From the provider.")
    address: Address = Field(
        "https://github.com",
        description="Its base address; for `oidc` it must be set, to the issuer.",
    )
    api_address: Address = Field("https://api.github.com", description="The API of GitHub.")
    scopes: tuple[Scope, ...] = Field(
        default=("openid", "email", "profile"),
        min_length=1,
        description="For `oidc`: what is asked for; Apple knows openid, email and name.",
    )
    response_mode: Literal["query", "form_post"] = Field(
        "query",
        description="For `oidc`: how the browser returns; `form_post`, which Apple requires, is a"
        " POST to the redirect URI.",
    )
    trust_unmarked_email: bool = Field(
        default=False,
        description="Whether an address counts as verified if the provider doesn't say: only for"
        " one that assigns all addresses itself, such as your organization's Entra tenant.",
    )
    ca_file: FilePath | None = Field(
        None, description="Authorities to trust instead of the system's, PEM."
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

    providers: dict[ProviderName, ProviderSettings] = Field(
        default_factory=dict, description="The providers, by name."
    )
    redirect_uris: tuple[RedirectUri, ...] = Field(
        (), description="Where browsers may be sent back to; compared exactly."
    )
    state_lifetime: Annotated[Duration, Between("1s")] = Field(
        timedelta(minutes=10), description="How long a login at a provider may take."
    )
    timeout: Annotated[Duration, Between("1ms")] = Field(
        timedelta(seconds=5), description="For everything that one login asks of a provider."
    )
    max_answer_bytes: int = Field(
        262_144, ge=1_024, le=4_194_304, description="The largest answer of a provider."
    )
