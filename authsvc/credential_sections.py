"""Owns the sections of the settings about ways to prove who one is: codes, factors, providers."""

import base64
import re
from datetime import timedelta
from email.utils import parseaddr
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

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
# As Address, with a query or a fragment, in which {code} and {email} may stand.
Link = Annotated[
    str,
    Field(
        pattern=r"^(https://[^\s/?#@{}]+|http://(127\.0\.0\.1|localhost)(:\d+)?)"
        r"([/?#]([^\s{}]|\{code\}|\{email\})*)?$"
    ),
]
# As browsers write them: in lower case, IDNA in ASCII, and no address in place of a domain.
_DOMAIN = r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)*[a-z]([a-z0-9-]*[a-z0-9])?"
Origin = Annotated[str, Field(pattern=rf"^(https://{_DOMAIN}|http://localhost)(:[1-9]\d{{0,4}})?$")]
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
        if not timedelta() <= self.resend_interval <= timedelta(hours=1):
            raise ValueError("resend_interval must be from 0s to 1h")
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class SmtpSettings(Section):
    """The mail server that messages are handed to."""

    host: str = Field(pattern=r"^[A-Za-z0-9._:-]+$")
    port: int = Field(587, ge=1, le=65_535)
    tls: Literal["starttls", "implicit", "off"] = Field(
        default="starttls", description="off is for a mail server on this machine."
    )
    ca_file: Path | None = Field(
        default=None, description="Authorities to trust; unset: the system's."
    )
    username: str = ""
    password: SecretStr | None = None
    sender: str = Field(
        max_length=320,
        description='The From address, such as "Example <login@example.com>".',
    )
    timeout: Duration = Field(
        default=timedelta(seconds=30), description="For handing over one message, in all."
    )

    @model_validator(mode="after")
    def _is_safe_and_whole(self) -> Self:
        if self.tls == "off" and not _is_loopback(self.host):
            raise ValueError('tls = "off" is for a mail server on this machine only')
        if bool(self.username) != (self.password is not None):
            raise ValueError("username and password must both be set, or neither")
        address = parseaddr(self.sender)[1]
        if not re.fullmatch(r"[!-?A-~]+@[A-Za-z0-9.-]+", address) or not self.sender.isprintable():
            raise ValueError('sender must be an address such as "Example <login@example.com>"')
        return self


def _webhook_secret(secret: SecretStr) -> SecretStr:
    webhook_key(secret)
    return secret


def webhook_key(secret: SecretStr) -> bytes:
    """Return the key of a secret as Standard Webhooks write it; raises ValueError."""
    scheme, separator, encoded = secret.get_secret_value().partition("whsec_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        key = b""
    if scheme or not separator or not 24 <= len(key) <= 64:
        raise ValueError('expected "whsec_" and 24 to 64 bytes in base64')
    return key


class WebhookSettings(Section):
    """The HTTP endpoint that messages are posted to, signed as Standard Webhooks say."""

    url: Address
    secrets: tuple[Annotated[SecretStr, AfterValidator(_webhook_secret)], ...] = Field(
        min_length=1,
        max_length=4,
        description='Newest first, "whsec_" and 24 to 64 bytes in base64; each signs all messages.',
    )
    ca_file: Path | None = Field(
        default=None, description="Authorities to trust; unset: the system's."
    )
    timeout: Duration = timedelta(seconds=10)


class DeliverySettings(Section):
    """Messages to users: the channel, their looks, and how long delivery is tried."""

    channel: Literal["none", "folder", "smtp", "webhook"] = Field(
        default="none",
        description="none: messages wait, and are abandoned when they have waited too long.",
    )
    folder: Path | None = Field(default=None, description="For development: a file a message.")
    smtp: SmtpSettings | None = None
    webhook: WebhookSettings | None = None
    product: str = Field("authsvc", min_length=1, max_length=64)
    templates: Path | None = Field(
        default=None, description="Templates that are used in place of the shipped ones."
    )
    links: dict[str, Link] = Field(
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

    @model_validator(mode="after")
    def _times_are_sane(self) -> Self:
        limits = [part.timeout for part in (self.smtp, self.webhook) if part]
        if any(not timedelta() < limit <= timedelta(minutes=5) for limit in limits):
            raise ValueError("the timeout of a channel must be more than 0 and at most 5m")
        if not timedelta() < self.first_retry <= self.longest_retry:
            raise ValueError("first_retry must be more than 0 and at most longest_retry")
        if not timedelta(minutes=1) <= self.abandon_after <= timedelta(days=30):
            raise ValueError("abandon_after must be from 1m to 30d")
        return self


class SecondFactorSettings(Section):
    """Second factors, and how recent a login has to be for sensitive changes."""

    required_for_roles: frozenset[str] = Field(
        default=frozenset(),
        description=(
            "Users with one of these roles enrol a factor at their next login;"
            " before, they have to verify their address."
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
        # ASVS 6.5.5: what authenticates lasts ten minutes at most.
        if not timedelta(seconds=30) <= self.challenge_lifetime <= timedelta(minutes=10):
            raise ValueError("challenge_lifetime must be from 30s to 10m")
        if self.trusted_device_lifetime > timedelta(days=365):
            raise ValueError("trusted_device_lifetime must be at most 365d")
        if not timedelta(minutes=1) <= self.recent_login <= timedelta(hours=24):
            raise ValueError("recent_login must be from 1m to 24h")
        return self


class PasskeySettings(Section):
    """Passkeys (WebAuthn): for which domain, and from which pages."""

    relying_party_id: Annotated[str, Field(pattern=rf"^{_DOMAIN}$", max_length=253)] = Field(
        "localhost", description="The domain that passkeys belong to; it can't be changed later."
    )
    relying_party_name: str = Field("authsvc", min_length=1, max_length=64)
    origins: tuple[Origin, ...] = Field(
        ("http://localhost:8080",),
        min_length=1,
        description="Pages that may use passkeys, at that domain or below it.",
    )
    challenge_lifetime: Duration = timedelta(minutes=5)

    @model_validator(mode="after")
    def _origins_are_of_the_domain(self) -> Self:
        # WebAuthn Level 3, section 5.1.2: browsers refuse all others.
        domain = self.relying_party_id
        for origin in self.origins:
            host = urlsplit(origin).hostname or ""
            if host != domain and not host.endswith(f".{domain}"):
                raise ValueError(f"origins must be at {domain} or below it")
        if not timedelta(seconds=30) <= self.challenge_lifetime <= timedelta(minutes=10):
            raise ValueError("challenge_lifetime must be from 30s to 10m")
        return self


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

    @model_validator(mode="after")
    def _lifetime_is_sane(self) -> Self:
        if not timedelta(minutes=1) <= self.max_lifetime <= timedelta(days=3_650):
            raise ValueError("max_lifetime must be from 1m to 3650d")
        return self


class ImportSettings(Section):
    """What an import of users may cost, and how many may run at once through the API."""

    max_rows: int = Field(1_000_000, ge=1)
    max_row_bytes: int = Field(16_384, ge=1_024, le=131_072)
    max_file_bytes: int = Field(4_294_967_296, ge=1)
    max_parallel: int = Field(2, ge=1, le=16)
    idle_timeout: Duration = Field(
        timedelta(seconds=30), description="How long the next part of a file may take to come."
    )
