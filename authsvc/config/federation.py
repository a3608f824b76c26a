"""Owns the settings of logins at other providers."""

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


class ProviderSettings(Section):
    """An identity provider."""

    kind: Literal["github", "oidc"] = Field(description="GitHub, or any OpenID Connect provider.")
    client_id: Annotated[str, Form("[ -~]{1,256}", "1 to 256 printable ASCII characters")] = Field(
        description="From the provider."
    )
    client_secret: SecretStr = Field(description="From the provider.")
    address: Address = Field(
        "https://github.com",
        description="Its base address; for `oidc` it must be set, to exactly the issuer.",
    )
    api_address: Address = Field("https://api.github.com", description="The API of GitHub.")
    ca_file: FilePath | None = Field(
        None, description="Authorities to trust instead of the system's, PEM."
    )

    @model_validator(mode="after")
    def _issuer_is_given(self) -> Self:
        if self.kind == "oidc" and "address" not in self.model_fields_set:
            raise ValueError("kind is 'oidc', so address must be set")
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
