"""Owns the settings of logins at other providers."""

from datetime import timedelta
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from authsvc.config.types import Address, Duration, ProviderName, RedirectUri, Section


class ProviderSettings(Section):
    """An identity provider."""

    kind: Literal["github", "oidc"]
    client_id: str = Field(min_length=1, max_length=256)
    client_secret: SecretStr
    address: Address = Field(
        "https://github.com", description="Its base URL; for oidc exactly the issuer."
    )
    api_address: Address = Field("https://api.github.com", description="The URL of GitHub's API.")
    ca_file: Path | None = Field(
        default=None, description="The CAs to trust; by default the system's."
    )

    @model_validator(mode="after")
    def _issuer_is_given(self) -> Self:
        if self.kind == "oidc" and "address" not in self.model_fields_set:
            raise ValueError("kind is 'oidc', so address must be set")
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
