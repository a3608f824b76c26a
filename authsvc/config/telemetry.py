"""Owns the settings of OpenTelemetry: where traces and metrics are sent, and how many."""

from datetime import timedelta
from importlib.util import find_spec
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from authsvc.config.types import Between, Duration, FilePath, Form, Section, ServerUrl

# Of OTLP over gRPC.
OTLP_PORT: Final = 4_317
_LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})


def _is_installed() -> bool:
    try:
        return find_spec("opentelemetry.proto") is not None
    except ModuleNotFoundError:
        return False


class TelemetrySettings(Section):
    """Traces and metrics, sent to an OpenTelemetry collector by OTLP over gRPC."""

    otlp_endpoint: ServerUrl | None = Field(
        None,
        description="The collector, such as `https://collector.example.com:4317`; without a port,"
        " 4317. Needs the extra `otel`. Without a collector, nothing is recorded or sent. See"
        " [Telemetry](telemetry.md).",
    )
    plaintext: bool = Field(
        False, description="Whether `http://` may lead to another machine than this one."
    )
    ca_file: FilePath | None = Field(
        None, description="Authorities to trust instead of the system's, PEM."
    )
    certificate_file: FilePath | None = Field(
        None, description="The certificate to present, PEM, with `key_file`; by default none."
    )
    key_file: FilePath | None = Field(None, description="Its key, PEM.")
    authorization: (
        Annotated[
            SecretStr,
            Form("[!-~]+(?: [!-~]+)*", "visible ASCII characters, such as a scheme and a token"),
        ]
        | None
    ) = Field(None, description="Sent to the collector as the header `authorization`; a secret.")
    timeout: Annotated[Duration, Between("100ms", "1m")] = Field(
        timedelta(seconds=10), description="For sending one batch."
    )
    resource_attributes: dict[
        str, Annotated[str, Form(r"[^\x00-\x1f\x7f]{1,256}", "1 to 256 characters on one line")]
    ] = Field(
        {},
        description="What the service is, besides `service.name`, `service.version` and"
        " `service.instance.id`, such as `deployment.environment.name`.",
    )
    traces_sample_ratio: float = Field(
        0.01,
        ge=0,
        le=1,
        description="The part of calls that are traced, unless their caller has decided.",
    )
    max_traces_per_second: int = Field(
        100,
        ge=1,
        le=10_000,
        description="At most so many calls are traced, whatever callers ask for.",
    )
    metrics: bool = Field(True, description="Whether to send what `/metrics` shows.")
    metrics_interval: Annotated[Duration, Between("1s", "1h")] = Field(
        timedelta(minutes=1), description="How often."
    )

    @model_validator(mode="after")
    def _endpoint_is_usable(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file must both be set, or neither")
        if self.otlp_endpoint is None:
            return self
        if not _is_installed():
            raise ValueError("otlp_endpoint needs OpenTelemetry: pip install 'authsvc[otel]'")
        url = urlsplit(self.otlp_endpoint)
        if url.scheme == "http":
            if url.hostname not in _LOCAL and not self.plaintext:
                raise ValueError(
                    "otlp_endpoint must be https:// unless it is on this machine, or plaintext is"
                    " true"
                )
            if self.ca_file or self.certificate_file:
                raise ValueError("ca_file, certificate_file and key_file need https://")
        return self
