"""Owns the settings of second factors and passkeys."""

from datetime import timedelta
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from authsvc.config.types import (
    Between,
    Distinct,
    Domain,
    Duration,
    Form,
    Line,
    Origin,
    PasskeyOrigin,
    RoleName,
    Section,
)


class SecondFactorSettings(Section):
    """Second factors, and how recent a login has to be for sensitive changes."""

    required_for_roles: Distinct[RoleName] = Field(
        frozenset(), description="Users with one of these roles must enrol a factor."
    )
    issuer: Annotated[
        str,
        Form(
            r"[^:\x00-\x1f\x7f-\x9f\u2028\u2029]{1,64}",
            "1 to 64 characters on one line, without a colon",
        ),
    ] = Field("authsvc", description="What authenticator apps call your product; no colon.")
    challenge_lifetime: Annotated[Duration, Between("30s", "10m")] = Field(
        timedelta(minutes=5), description="How long a login waits for its second factor."
    )
    max_attempts: int = Field(
        5, ge=1, le=10, description="How many factors may be tried for one login."
    )
    trusted_device_lifetime: Annotated[Duration, Between("0s", "365d")] = Field(
        timedelta(days=30), description="How long a trusted device isn't asked."
    )
    max_per_user: int = Field(10, ge=1, le=100, description="Factors of a user.")
    recent_login: Annotated[Duration, Between("1m", "24h")] = Field(
        timedelta(minutes=10), description="How recent a login must be for a sensitive change."
    )


class PasskeySettings(Section):
    """Passkeys (WebAuthn): their domain, and the origins that may use them."""

    relying_party_id: Domain = Field(
        "localhost",
        max_length=253,
        description="The domain that passkeys belong to; it can't be changed later.",
    )
    relying_party_name: Line = Field(
        "authsvc", description="What authenticators call your product."
    )
    origins: tuple[PasskeyOrigin, ...] = Field(
        ("http://localhost:8080",),
        min_length=1,
        description="What may use passkeys: pages at that domain or below it, and Android apps.",
    )
    related_origins: tuple[Origin, ...] = Field(
        (),
        max_length=100,
        description="At most 100 pages of other domains that may use the same passkeys; browsers"
        " read them at `/.well-known/webauthn` of the domain.",
    )
    challenge_lifetime: Annotated[Duration, Between("30s", "10m")] = Field(
        timedelta(minutes=5), description="How long a passkey may take to answer."
    )

    @model_validator(mode="after")
    def _origins_are_of_the_domain(self) -> Self:
        # WebAuthn Level 3, sections 5.1.2 and 5.11: browsers reject pages of all other domains.
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
        return self


def _is_at(origin: str, domain: str) -> bool:
    host = urlsplit(origin).hostname or ""
    return host == domain or host.endswith(f".{domain}")
