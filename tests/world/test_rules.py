"""The committed rules as Prometheus takes them, and when they fire by their real times."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.observability.__main__ import FOLDER
from tests.world.install import PROMETHEUS

pytestmark = pytest.mark.world

_RULES = sorted((FOLDER / "rules").glob("*.yaml"))
_CALLS = "authsvc_rpc_calls_total"
_DAY = 86_400


def _promtool(*arguments: str) -> str:
    done = subprocess.run(
        [str(PROMETHEUS.folder / "usr/bin/promtool"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True, slots=True)
class Case:
    """Series by the minute, and the alerts that fire at times."""

    name: str
    series: Mapping[str, str]
    expected: Mapping[str, Sequence[str]]

    def document(self) -> dict[str, Any]:
        return {
            "interval": "1m",
            "input_series": [
                {"series": name, "values": values}
                for name, values in ({_up("a"): "1x6000"} | {**self.series}).items()
            ],
            "promql_expr_test": [
                {
                    "eval_time": time,
                    "expr": 'count by (alertname, severity) (ALERTS{alertstate="firing"})',
                    "exp_samples": [
                        {
                            "labels": f'{{alertname="{alert}", severity="{severity}"}}',
                            "value": float(number),
                        }
                        for alert, severity, number in (each.split() for each in alerts)
                    ],
                }
                for time, alerts in self.expected.items()
            ],
        }


def _up(instance: str) -> str:
    return f'up{{job="authsvc", instance="{instance}"}}'


def _calls(instance: str, code: str = "OK", reason: str = "") -> str:
    return (
        f'{_CALLS}{{job="authsvc", instance="{instance}", method="/authsvc.v1.AuthService/Login",'
        f' code="{code}", reason="{reason}"}}'
    )


def _detections(instance: str) -> str:
    return (
        f'authsvc_detections_total{{job="authsvc", instance="{instance}",'
        ' detection="password_spraying"}'
    )


def _certificate(instance: str, what: str, port: str = "") -> str:
    name = f"authsvc_{port}tls_certificate_{what}_time_seconds"
    return f'{name}{{job="authsvc", instance="{instance}"}}'


def _gauge(name: str, instance: str = "a") -> str:
    return f'authsvc_{name}{{job="authsvc", instance="{instance}"}}'


def _messages(channel: str, outcome: str) -> str:
    return (
        f'authsvc_messages_total{{job="authsvc", instance="a", channel="{channel}",'
        f' outcome="{outcome}"}}'
    )


def _process(instance: str) -> str:
    return f'process_start_time_seconds{{job="authsvc", instance="{instance}"}}'


def _planned(instance: str) -> str:
    return f'authsvc_planned_stops_total{{job="authsvc", instance="{instance}"}}'


_BURN = "AuthsvcAvailabilityBudgetBurn"
_FAILED = ("INTERNAL", "INTERNAL")
CASES = (
    Case(
        "no traffic",
        {_calls("a"): "0x300", _calls("a", *_FAILED): "0x300"},
        {"10m": [], "5h": []},
    ),
    Case(
        "the first calls fail, and then no more",
        {_calls("a"): "0+600x300", _calls("a", *_FAILED): "_x10 1 5x290"},
        {"12m": [], "1h": []},
    ),
    Case(
        "a rollout: one replica ends, the next begins at 0",
        {
            _calls("a"): "90000+600x60 stale",
            _calls("b"): "_x55 0+600x300",
            _up("b"): "_x55 1x300",
            _calls("a", "UNAVAILABLE", "SERVICE_STOPPING"): "0x55 0+50x5 stale",
        },
        {"1h2m": [], "2h": []},
    ),
    Case(
        "nearly every call fails, and then none",
        {
            _calls("a"): "0+600x60 36000x20 36000+600x2000",
            _calls("a", *_FAILED): "0x60 0+600x20 12000x2000",
        },
        {
            "59m": [],
            "1h4m": [f"{_BURN} page 2", f"{_BURN} ticket 2"],
            # The short windows of five minutes and half an hour are over.
            "1h59m": [f"{_BURN} ticket 2"],
            "10h": [],
        },
    ),
    Case(
        "one call in a thousand fails for days",
        {_calls("a"): "0+6000x1500", _calls("a", *_FAILED): "0+6x1500"},
        {"1d": [f"{_BURN} ticket 1"]},
    ),
    Case(
        "a quiet night in which one call in ten fails",
        {_calls("a"): "0+1x600", _calls("a", *_FAILED): "0x120 1x480"},
        {"2h3m": [], "4h": []},
    ),
    Case(
        "calls are shed, and a provider is down: only the first is ours",
        {
            _calls("a"): "0+600x300",
            _calls("a", "RESOURCE_EXHAUSTED", "TOO_MANY_ATTEMPTS"): "0+300x300",
            _calls("a", "UNAVAILABLE", "PROVIDER_UNAVAILABLE"): "0x300",
        },
        {"1h": []},
    ),
    Case(
        "a detection on a replica that was there, and on one that has just started",
        {_detections("a"): "0x30 1x100", _detections("b"): "_x60 1x100"},
        {
            "29m": [],
            "32m": ["AuthsvcPasswordSpraying page 1"],
            "50m": [],
            "1h2m": ["AuthsvcPasswordSpraying page 1"],
            "1h20m": [],
        },
    ),
    Case(
        "replicas that could not be scraped for a while, long after a detection",
        {_detections("a"): "0x5 1x120 stale 1x60", _detections("b"): "1x60 _x30 1x97"},
        {f"{minutes}m": [] for minutes in (70, 80, 95, 105, 107, 128, 141, 142, 143, 150)},
    ),
    Case(
        "certificates for an hour and for 90 days",
        {
            _certificate("short", "expire"): "3600x60 stale",
            _certificate("short", "issue"): "0x60 stale",
            _certificate("long", "expire"): f"{14 * _DAY + 5_400}x200",
            _certificate("long", "issue"): f"{-76 * _DAY + 5_400}x200",
        },
        {
            "47m": [],
            "51m": ["AuthsvcCertificateExpiring ticket 1"],
            "59m": ["AuthsvcCertificateExpiring page 1", "AuthsvcCertificateExpiring ticket 1"],
            "1h20m": [],
            "1h35m": ["AuthsvcCertificateExpiring ticket 1"],
        },
    ),
    Case(
        "a key is changed: replicas are restarted on purpose, six times within an hour",
        {
            _process("a"): "100x10 200x10 300x10 400x10 500x10 600x10 700x400",
            _planned("a"): "4x10 5x10 6x10 7x10 8x10 9x10 10x400",
        },
        {"1h10m": [], "5h": []},
    ),
    Case(
        "of four restarts, three are crashes",
        {
            _process("a"): "100x10 200x10 300x10 400x10 500x600",
            _planned("a"): "4x10 4x10 5x10 5x10 5x600",
        },
        {"35m": [], "50m": ["AuthsvcRestarting ticket 1"], "7h": []},
    ),
    Case(
        "a container starts again and again in its pod, where no stop is planned",
        {_process("a"): "100x10 200x10 300x10 400x600", _planned("a"): "0x640"},
        {"25m": [], "40m": ["AuthsvcRestarting ticket 1"]},
    ),
    Case(
        "the certificate of the HTTP port alone",
        {
            _certificate("a", "expire"): f"{90 * _DAY}x100",
            _certificate("a", "issue"): "0x100",
            _certificate("a", "expire", "http_"): "3600x100",
            _certificate("a", "issue", "http_"): "0x100",
        },
        {"47m": [], "51m": ["AuthsvcCertificateExpiring ticket 1"]},
    ),
    Case(
        "each other scrape fails",
        {
            # A stale mark is what Prometheus writes if a scrape fails.
            _gauge("database_up"): "1x60 " + "0 stale " * 60,
            _gauge("revocation_listener_up"): "1x120 " + "stale 0 " * 60,
            _gauge("settings_reload_failed"): "0x300 " + "1 stale " * 60,
        },
        {
            "59m": [],
            "1h30m": ["AuthsvcDatabaseDown page 1"],
            "2h40m": ["AuthsvcDatabaseDown page 1", "AuthsvcRevocationListenerBehind page 1"],
            "6h": ["AuthsvcSettingsReloadFailed ticket 1"],
        },
    ),
    Case(
        "a blip, and one that is the last word of a replica",
        {
            _gauge("database_up"): "1x10 0 1x10 0 stale",
            _gauge("revocation_listener_up"): "1x10 0 1x10 0 stale",
            _gauge("settings_reload_failed"): "0x10 1 0x10 1 stale",
        },
        {f"{minutes}m": [] for minutes in range(9, 32)},
    ),
    Case(
        "messages wait that nobody attempts to send",
        {
            _gauge("outbox_pending"): "0x10 8x100",
            _messages("smtp", "sent"): "0+9x10 90x100",
            _messages("smtp", "retried"): "0x110",
            _gauge("outbox_read_age_seconds"): "1x110",
        },
        {"15m": [], "40m": ["AuthsvcMessagesDelayed page 1"]},
    ),
    Case(
        "messages wait where no channel is set",
        {_gauge("outbox_pending"): "8x110", _messages("none", "sent"): "0x110"},
        {"40m": [], "1h40m": []},
    ),
    Case(
        "one replica looks for messages no more, and then none",
        {
            _gauge("outbox_read_age_seconds"): "1x30 1+60x100",
            _gauge("outbox_read_age_seconds", "b"): "1x60 1+60x100",
        },
        {"1h15m": [], "1h30m": ["AuthsvcDeliveryStopped page 1"]},
    ),
    Case(
        "a flood of strangers and of health checks beside calls that fail",
        {
            _calls("a"): "0+600x90",
            _calls("a", *_FAILED): "0+60x90",
            _calls("a", "PERMISSION_DENIED", "CALLER_NOT_ALLOWED"): "0+600000x90",
            _calls("a").replace("authsvc.v1.AuthService/Login", "grpc.health.v1.Health/Check"): (
                "0+600000x90"
            ),
        },
        {"1h20m": [f"{_BURN} page 2", f"{_BURN} ticket 2"]},
    ),
    Case(
        "no replica at all",
        {_up("a"): "1x10 0x60"},
        {"9m": [], "20m": ["AuthsvcDown page 1"]},
    ),
)


def test_prometheus_takes_the_rules() -> None:
    assert _promtool("check", "rules", *map(str, _RULES)).count("SUCCESS") == len(_RULES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_alerts_fire_in_time_and_for_nothing_else(case: Case, tmp_path: Path) -> None:
    tests = tmp_path / "tests.yaml"
    tests.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(path) for path in _RULES],
                "evaluation_interval": "1m",
                "tests": [case.document()],
            }
        )
    )
    _promtool("test", "rules", str(tests))
