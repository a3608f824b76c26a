"""Owns the sections of the settings about ways to prove who one is: codes, factors, providers."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from authsvc.sections import Duration, PolicyName, PolicySettings, Section

# An https address, or http on this machine, without a query or a fragment.
Address = Annotated[
    str, Field(pattern=r"^(https://[^\s/?#@]+|http://(127\.0\.0\.1|localhost)(:\d+)?)(/[^\s?#]*)?$")
]
# As Address, but with a query if need be; or of a scheme of an app's own (RFC 8252, section 7.1).
RedirectUri = Annotated[
    str,
    Field(
        max_length=2_048,
        pattern=r"^(https://[^\s/?#@]+|http://(127\.0\.0\.1|localhost)(:\d+)?"
        r"|[a-z][a-z0-9+-]*(\.[a-z0-9+-]+)+:)(/[^\s#]*)?$",
    ),
]
ProviderName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]


class CodeSettings(Section):
    """One-time codes: how long they work, and how often they may be tried and sent."""

    lifetime: Duration = timedelta(minutes=10)
    verification_lifetime: Duration = timedelta(hours=24)
    max_attempts: int = Field(5, ge=1, le=10)
    resend_interval: Duration = timedelta(seconds=60)
    requests_per_address: PolicySettings = PolicySettings(requests=5, window=timedelta(hours=1))
    requests_per_ip: PolicySettings = PolicySettings(requests=30, window=timedelta(hours=1))
    require_verified_email: bool = Field(
        default=False, description="Refuse logins until the e-mail address is verified."
    )

    @model_validator(mode="after")
    def _lifetimes_are_sane(self) -> Self:
        # ASVS 6.5.5: what authenticates lasts ten minutes at most.
        if not timedelta(seconds=30) <= self.lifetime <= timedelta(minutes=10):
            raise ValueError("lifetime must be from 30s to 10m")
        if not timedelta(minutes=1) <= self.verification_lifetime <= timedelta(days=7):
            raise ValueError("verification_lifetime must be from 1m to 7d")
        return self


class SmtpSettings(Section):
    """The mail server that messages are handed to."""

    host: str = Field(min_length=1)
    port: int = Field(587, ge=1, le=65_535)
    tls: Literal["starttls", "implicit", "off"] = "starttls"
    ca_file: Path | None = Field(
        default=None, description="Authorities to trust; unset: the system's."
    )
    username: str = ""
    password: SecretStr | None = None
    sender: str = Field(
        min_length=3, description='The From address, such as "Example <login@example.com>".'
    )
    timeout: Duration = timedelta(seconds=10)


class WebhookSettings(Section):
    """The HTTP endpoint that messages are posted to, signed as Standard Webhooks say."""

    url: Address
    secrets: tuple[SecretStr, ...] = Field(
        min_length=1,
        max_length=4,
        description='Newest first, "whsec_" and 24 to 64 bytes in base64; each signs all messages.',
    )
    ca_file: Path | None = None
    timeout: Duration = timedelta(seconds=10)


class DeliverySettings(Section):
    """Messages to users: the channel, their looks, and how long delivery is tried."""

    channel: Literal["none", "folder", "smtp", "webhook"] = "none"
    folder: Path | None = Field(default=None, description="For development: a file a message.")
    smtp: SmtpSettings | None = None
    webhook: WebhookSettings | None = None
    product: str = Field("authsvc", min_length=1, max_length=64)
    templates: Path | None = Field(
        default=None, description="Templates that are used in place of the shipped ones."
    )
    links: dict[str, str] = Field(
        default_factory=dict,
        description="Addresses by kind of message; {code} and {email} are put in.",
    )
    first_retry: Duration = timedelta(seconds=5)
    longest_retry: Duration = timedelta(minutes=15)
    abandon_after: Duration = timedelta(hours=24)
    parallel: int = Field(4, ge=1, le=64)

    @model_validator(mode="after")
    def _channel_is_set_up(self) -> Self:
        if self.channel != "none" and getattr(self, self.channel) is None:
            raise ValueError(f"channel is {self.channel!r}, so {self.channel} must be set")
        return self


class SecondFactorSettings(Section):
    """Second factors, and how recent a login has to be for sensitive changes."""

    required_for_roles: frozenset[str] = frozenset()
    issuer: str = Field("authsvc", min_length=1, max_length=64, pattern=r"^[^:]+$")
    challenge_lifetime: Duration = timedelta(minutes=5)
    max_attempts: int = Field(5, ge=1, le=10)
    trusted_device_lifetime: Duration = timedelta(days=30)
    max_per_user: int = Field(10, ge=1, le=100)
    recent_login: Duration = timedelta(minutes=10)


class PasskeySettings(Section):
    """Passkeys (WebAuthn): for which domain, and from which pages."""

    relying_party_id: str = Field("localhost", min_length=1, max_length=253)
    relying_party_name: str = Field("authsvc", min_length=1, max_length=64)
    origins: tuple[str, ...] = Field(("http://localhost:8080",), min_length=1)
    challenge_lifetime: Duration = timedelta(minutes=5)


class ProviderSettings(Section):
    """A provider of identities."""

    kind: Literal["github", "oidc"]
    client_id: str = Field(min_length=1, max_length=256)
    client_secret: SecretStr
    address: Address = Field(
        "https://github.com", description="Its base address; for oidc exactly the issuer."
    )
    api_address: Address = Field("https://api.github.com", description="GitHub's API.")
    ca_file: Path | None = Field(
        default=None, description="Authorities to trust; unset: the system's."
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
        default=(), description="Where providers may send browsers back to, letter for letter."
    )
    state_lifetime: Duration = timedelta(minutes=10)
    timeout: Duration = Field(
        timedelta(seconds=5), description="For all that one login asks of a provider."
    )
    max_answer_bytes: int = Field(262_144, ge=1_024, le=4_194_304)


class ApiKeySettings(Section):
    """API keys of users."""

    prefix: str = Field("authsvc", pattern=r"^[a-z][a-z0-9]{1,15}$")
    max_per_user: int = Field(20, ge=1, le=1_000)
    max_lifetime: Duration = timedelta(days=365)
    policy: PolicyName | None = None
    last_use_interval: Duration = timedelta(minutes=1)
    cache_size: int = Field(50_000, ge=0)


class ImportSettings(Section):
    """What an import of users may cost."""

    max_rows: int = Field(1_000_000, ge=1)
    max_row_bytes: int = Field(16_384, ge=1_024, le=1_048_576)
    max_file_bytes: int = Field(4_294_967_296, ge=1)
