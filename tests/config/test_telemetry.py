"""The settings of OpenTelemetry, and what they refuse."""

from importlib.machinery import ModuleSpec

import pytest
from pydantic import ValidationError

from authsvc.config import TelemetrySettings, telemetry


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"otlp_endpoint": "http://collector:4317"}, "must be https:// unless"),
        ({"otlp_endpoint": "http://localhost", "ca_file": "ca.crt"}, "need https://"),
        ({"otlp_endpoint": "https://a", "key_file": "a"}, "must both be set"),
        ({"otlp_endpoint": "https://a/v1/traces"}, "without a path"),
        ({"otlp_endpoint": "a:4317"}, "expected an https://"),
        ({"traces_sample_ratio": 1.1}, "less than or equal to 1"),
        ({"max_traces_per_second": 0}, "greater than or equal to 1"),
        ({"authorization": "a\nb"}, "visible ASCII"),
    ],
)
def test_values_that_cannot_work_are_refused(values: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        TelemetrySettings.model_validate(values)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"otlp_endpoint": "https://collector.example.com:4317"},
        {"otlp_endpoint": "http://[::1]:4317"},
        {"otlp_endpoint": "http://collector:4317", "plaintext": True},
    ],
)
def test_values_that_work_are_accepted(values: dict[str, object]) -> None:
    TelemetrySettings.model_validate(values)


@pytest.mark.parametrize("parent", [True, False])
def test_endpoint_without_the_extra_is_refused(
    monkeypatch: pytest.MonkeyPatch, parent: bool
) -> None:
    def find(name: str) -> ModuleSpec | None:
        assert name == "opentelemetry.proto"
        if parent:
            return None
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(telemetry, "find_spec", find)
    with pytest.raises(ValidationError, match=r"pip install 'authsvc\[otel\]'"):
        TelemetrySettings(otlp_endpoint="https://a")
    TelemetrySettings()
