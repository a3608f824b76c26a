"""Owns the settings of second factors and passkeys."""

from datetime import timedelta
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from authsvc.config.types import _DOMAIN, Duration, Origin, PasskeyOrigin, Section


class SecondFactorSettings(Section):
    """Second factors, and how recent a login has to be for sensitive changes."""

    required_for_roles: frozenset[str] = Field(
        default=frozenset(),
        description=(
            "Users with one of these roles have to enrol a factor at their next login,"
            " and to verify their address before."
        ),
    )
    issuer: str = Field("authsvc", min_length=1, max_length=64, pattern=r"^[^:]+$")
    challenge_lifetime: Duration = timedelta(minutes=5)
    max_attempts: int = Field(5, ge=1, le=10)
    trusted_device_lifetime: Duration = timedelta(days=30)
    max_per_user: int = Field(10, ge=1, le=100)
    recent_login: Duration = timedelta(minutes=10)

    @model_validator(mode="after")
    def _lifetimes_are_sane(self) -> Self:
        # ASVS 6.5.5: codes that authenticate are valid for at most ten minutes.
        if not timedelta(seconds=30) <= self.challenge_lifetime <= timedelta(minutes=10):
            raise ValueError("challenge_lifetime must be from 30s to 10m")
        if self.trusted_device_lifetime > timedelta(days=365):
            raise ValueError("trusted_device_lifetime must be at most 365d")
        if not timedelta(minutes=1) <= self.recent_login <= timedelta(hours=24):
            raise ValueError("recent_login must be from 1m to 24h")
        return self


class PasskeySettings(Section):
    """Passkeys (WebAuthn): their domain, and the origins that may use them."""

    relying_party_id: Annotated[str, Field(pattern=rf"^{_DOMAIN}$", max_length=253)] = Field(
        "localhost", description="The domain that passkeys belong to; changing it invalidates them."
    )
    relying_party_name: str = Field("authsvc", min_length=1, max_length=64)
    origins: tuple[PasskeyOrigin, ...] = Field(
        ("http://localhost:8080",),
        min_length=1,
        description=(
            "Origins that may use passkeys: pages at that domain or a subdomain, and Android apps."
        ),
    )
    related_origins: tuple[Origin, ...] = Field(
        (),
        max_length=100,
        description=(
            "Pages of other domains that may use the same passkeys; browsers read them at"
            " /.well-known/webauthn of the domain."
        ),
    )
    challenge_lifetime: Duration = timedelta(minutes=5)

    @model_validator(mode="after")
    def _origins_are_of_the_domain(self) -> Self:
        # WebAuthn Level 3, section 5.1.2: browsers reject all others.
        domain = self.relying_party_id
        for origin in self.origins:
            if not (origin.startswith("android:") or _is_at(origin, domain)):
                raise ValueError(
                    f"origins must be at {domain} or a subdomain;"
                    " pages of other domains belong in related_origins"
                )
        for origin in self.related_origins:
            if _is_at(origin, domain):
                raise ValueError(f"{origin} is at {domain}: it belongs in origins")
        if not timedelta(seconds=30) <= self.challenge_lifetime <= timedelta(minutes=10):
            raise ValueError("challenge_lifetime must be from 30s to 10m")
        return self


def _is_at(origin: str, domain: str) -> bool:
    host = urlsplit(origin).hostname or ""
    return host == domain or host.endswith(f".{domain}")
