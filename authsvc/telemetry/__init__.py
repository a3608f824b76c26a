"""Owns the sending of traces and metrics to an OpenTelemetry collector, with the extra `otel`.

`Telemetry` is the entry. Nothing imports this package unless `telemetry.otlp_endpoint` is set; what
records spans is `authsvc.tracing`.
"""
