"""Owns the settings of the audit log."""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from authsvc.config.delivery import WebhookSettings
from authsvc.config.types import Between, Duration, FilePath, Form, Host, Section

# PRINTUSASCII of RFC 5424, section 6.
_NAME = r"[!-~]"


class SyslogSettings(Section):
    """The syslog server that audit events are sent to, by RFC 5424 over TLS (RFC 5425)."""

    host: Host = Field(description="The server; its certificate must have this name.")
    port: int = Field(6514, ge=1, le=65_535, description="Its port.")
    ca_file: FilePath | None = Field(
        None, description="Authorities to trust instead of the system's, PEM."
    )
    certificate_file: FilePath | None = Field(
        None, description="The certificate to present, PEM, with `key_file`; by default none."
    )
    key_file: FilePath | None = Field(None, description="Its key, PEM.")
    facility: int = Field(
        13, ge=0, le=23, description="The facility; 13 is the log audit, 10 private security."
    )
    app_name: Annotated[str, Form(rf"{_NAME}{{1,48}}", "1 to 48 visible ASCII characters")] = Field(
        "authsvc", description="The APP-NAME of each message."
    )
    enterprise_number: int = Field(
        32473,
        ge=1,
        le=2**32 - 1,
        description=(
            "Your private enterprise number, for the id of the structured data"
            " (`authsvc@32473`); the default is the one for documentation."
        ),
    )
    confirm: bool = Field(
        True,
        description=(
            "Count events as received only if the server ends the connection by close_notify, as"
            " RFC 5425 requires; `false` for servers that just hang up."
        ),
    )
    timeout: Annotated[Duration, Between("1ms", "5m")] = Field(
        timedelta(seconds=10), description="For sending one batch."
    )

    @model_validator(mode="after")
    def _certificate_is_whole(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file must both be set, or neither")
        return self


class AuditForwardSettings(Section):
    """Where audit events are forwarded, at least once each."""

    target: Literal["none", "syslog", "webhook"] = Field(
        "none", description="See [Audit events](audit-events.md#forwarding)."
    )
    syslog: SyslogSettings | None = Field(None, description="The syslog server.")
    webhook: WebhookSettings | None = Field(
        None, description="The HTTP endpoint, with the settings of `delivery.webhook`."
    )
    batch_size: int = Field(200, ge=1, le=1_000, description="The most events sent at once.")
    first_retry: Annotated[Duration, Between("1ms")] = Field(
        timedelta(seconds=1), description="The pause after the first failure; it doubles each time."
    )
    longest_retry: Annotated[Duration, Between("1ms", "1h")] = Field(
        timedelta(minutes=1), description="The longest pause."
    )
    warn_after: Annotated[Duration, Between("1s")] = Field(
        timedelta(minutes=5), description="Warn in the log when forwarding lags by this much."
    )

    @model_validator(mode="after")
    def _target_is_set_up(self) -> Self:
        if self.target != "none" and getattr(self, self.target) is None:
            raise ValueError(f"target is {self.target!r}, so {self.target} must be set")
        if self.first_retry > self.longest_retry:
            raise ValueError("first_retry must be at most longest_retry")
        return self


class AuditSettings(Section):
    """The audit log."""

    forward: AuditForwardSettings = Field(
        AuditForwardSettings(), description="Where audit events are forwarded."
    )
