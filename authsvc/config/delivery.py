"""Owns the settings of message delivery to users."""

import base64
import re
from datetime import timedelta
from email.utils import parseaddr
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from authsvc.config.types import Address, Duration, Link, Section


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class SmtpSettings(Section):
    """The mail server that delivers messages."""

    host: str = Field(pattern=r"^[A-Za-z0-9._:-]+$")
    port: int = Field(587, ge=1, le=65_535)
    tls: Literal["starttls", "implicit", "off"] = Field(
        default="starttls", description="off is only allowed for a mail server on this machine."
    )
    ca_file: Path | None = Field(
        default=None, description="The CAs to trust; by default the system's."
    )
    username: str = ""
    password: SecretStr | None = None
    sender: str = Field(
        max_length=320,
        description='The From address, such as "Example <login@example.com>".',
    )
    hello_name: str | None = Field(
        default=None,
        pattern=r"^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-fIPv.:]{3,50}\])$",
        description="The name in EHLO; by default that of the machine, or else its address.",
    )
    timeout: Duration = Field(
        default=timedelta(seconds=30), description="For the whole delivery of one message."
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
    """Return the key of a secret in the form of Standard Webhooks; raises ValueError."""
    scheme, separator, encoded = secret.get_secret_value().partition("whsec_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        key = b""
    if scheme or not separator or not 24 <= len(key) <= 64:
        raise ValueError('expected "whsec_" and 24 to 64 bytes in base64')
    return key


class WebhookSettings(Section):
    """The HTTP endpoint that messages are posted to, signed by Standard Webhooks."""

    url: Address
    secrets: tuple[Annotated[SecretStr, AfterValidator(_webhook_secret)], ...] = Field(
        min_length=1,
        max_length=4,
        description='Newest first, "whsec_" and 24 to 64 bytes in base64; each signs all messages.',
    )
    ca_file: Path | None = Field(
        default=None, description="The CAs to trust; by default the system's."
    )
    timeout: Duration = timedelta(seconds=10)


class DeliverySettings(Section):
    """Messages to users: the channel, the templates, and how long delivery is attempted."""

    channel: Literal["none", "folder", "smtp", "webhook"] = Field(
        default="none",
        description="none: messages are kept undelivered, and abandoned after abandon_after.",
    )
    folder: Path | None = Field(default=None, description="For development: one file per message.")
    smtp: SmtpSettings | None = None
    webhook: WebhookSettings | None = None
    product: str = Field("authsvc", min_length=1, max_length=64)
    templates: Path | None = Field(
        default=None, description="A folder of templates that replace the shipped ones."
    )
    links: dict[str, Link] = Field(
        default_factory=dict,
        description="Links by kind of message; {code} and {email} are replaced.",
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
