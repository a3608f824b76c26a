"""Owns the settings of message delivery to users."""

import base64
from datetime import timedelta
from ipaddress import ip_address
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from authsvc.config.types import (
    Address,
    Between,
    Duration,
    FilePath,
    Form,
    Host,
    Line,
    Link,
    Section,
)


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_MAILBOX = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+"
# Before the address, text that needs no quotes, or text in quotes (RFC 5322, section 3.4).
_TEXT = r"\x00-\x1f\x7f-\x9f\u2028\u2029\"\\"
_SENDER = Form(
    rf"{_MAILBOX}|(?:[^{_TEXT},;:()<>@\[\]]*|\"[^{_TEXT}]*\" ?)<{_MAILBOX}>",
    'an address such as "Example <login@example.com>"',
)
# Base64 of 24 to 64 bytes (Standard Webhooks).
_WEBHOOK_SECRET = Form(
    "whsec_(?:[A-Za-z0-9+/]{4}){8,20}(?:(?:[A-Za-z0-9+/]{4}){0,1}"
    "|(?:[A-Za-z0-9+/]{4}){0,1}[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)",
    '"whsec_" and 24 to 64 bytes in base64',
)


class SmtpSettings(Section):
    """The mail server that delivers messages."""

    host: Host = Field(description="The mail server.")
    port: int = Field(587, ge=1, le=65_535, description="Its port.")
    tls: Literal["starttls", "implicit", "off"] = Field(
        "starttls", description="`off` is accepted only for a mail server on the same machine."
    )
    ca_file: FilePath | None = Field(
        None, description="Authorities to trust instead of the system's, PEM."
    )
    username: Annotated[str, Form("[^\\x00-\\x1f\\x7f]*", "a name on one line")] = Field(
        "", description="Set with `delivery.smtp.password`, or leave both out."
    )
    password: SecretStr | None = Field(None, description="Its password.")
    sender: Annotated[str, _SENDER] = Field(
        max_length=320, description="The From address, such as `Example <login@example.com>`."
    )
    hello_name: (
        Annotated[
            str,
            Form(
                r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-fIPv.:]{3,50}\]",
                "a host name, or an address in brackets",
            ),
        ]
        | None
    ) = Field(
        None,
        description=(
            "The name by which the server is greeted (EHLO), such as `auth.example.com`; by default"
            " the machine's if it has a dot, or else its address."
        ),
    )
    timeout: Annotated[Duration, Between("1ms", "5m")] = Field(
        timedelta(seconds=30), description="For handing over one message."
    )

    @model_validator(mode="after")
    def _is_safe_and_whole(self) -> Self:
        if self.tls == "off" and not is_loopback(self.host):
            raise ValueError('tls = "off" is for a mail server on this machine only')
        if bool(self.username) != (self.password is not None):
            raise ValueError("username and password must both be set, or neither")
        return self


def webhook_key(secret: SecretStr) -> bytes:
    """Return the key of a secret in the form of Standard Webhooks."""
    return base64.b64decode(secret.get_secret_value().removeprefix("whsec_"))


class WebhookSettings(Section):
    """The HTTP endpoint that messages are posted to, signed by Standard Webhooks."""

    url: Address = Field(description="An https address, or http on the same machine.")
    secrets: tuple[Annotated[SecretStr, _WEBHOOK_SECRET], ...] = Field(
        min_length=1,
        max_length=4,
        description=(
            "One to four, newest first: `whsec_` and 24 to 64 bytes in base64; each signs every"
            " message."
        ),
    )
    ca_file: FilePath | None = Field(
        None, description="Authorities to trust instead of the system's, PEM."
    )
    timeout: Annotated[Duration, Between("1ms", "5m")] = Field(
        timedelta(seconds=10), description="For posting one message."
    )


class DeliverySettings(Section):
    """Messages to users: the channel, the templates, and how long delivery is attempted."""

    channel: Literal["none", "folder", "smtp", "webhook"] = Field(
        "none", description="How messages leave; see [Ways to log in](signing-in.md#messages)."
    )
    folder: FilePath | None = Field(None, description="The folder of the channel `folder`.")
    smtp: SmtpSettings | None = Field(None, description="The mail server.")
    webhook: WebhookSettings | None = Field(None, description="The webhook.")
    product: Line = Field("authsvc", description="What messages call your product.")
    templates: FilePath | None = Field(None, description="A folder with templates of your own.")
    links: dict[str, Link] = Field(
        default_factory=dict,
        description=(
            "Addresses by kind of message, such as `verify_email`; `{code}` and `{email}` are"
            " filled in."
        ),
    )
    first_retry: Annotated[Duration, Between("1ms")] = Field(
        timedelta(seconds=5), description="The pause after the first failure; it doubles each time."
    )
    longest_retry: Annotated[Duration, Between("1ms")] = Field(
        timedelta(minutes=15), description="The longest pause."
    )
    abandon_after: Annotated[Duration, Between("1m", "30d")] = Field(
        timedelta(hours=24), description="When a message is given up."
    )
    parallel: int = Field(4, ge=1, le=64, description="Messages that a replica delivers at a time.")

    @model_validator(mode="after")
    def _channel_is_set_up(self) -> Self:
        if self.channel != "none" and getattr(self, self.channel) is None:
            raise ValueError(f"channel is {self.channel!r}, so {self.channel} must be set")
        return self

    @model_validator(mode="after")
    def _times_are_sane(self) -> Self:
        if self.first_retry > self.longest_retry:
            raise ValueError("first_retry must be at most longest_retry")
        return self
