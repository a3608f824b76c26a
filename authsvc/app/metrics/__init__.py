"""Owns the table of metrics: what each one means and where it is read, in sections.

docs/metrics.md is generated from it. `SERVER` is read from the gRPC server, `TELEMETRY` from what
sends traces, if something does, and `SERVICE` from the rest.
"""

from collections.abc import Sequence
from typing import Any

from authsvc.app.metrics.calls import CALLS, HTTP
from authsvc.app.metrics.keys import KEYS, REVOCATIONS
from authsvc.app.metrics.logins import LIMITS, LOGINS
from authsvc.app.metrics.operation import MESSAGES, OPERATION
from authsvc.app.metrics.running import Running
from authsvc.app.metrics.saturation import SATURATION
from authsvc.app.metrics.table import Metric
from authsvc.app.metrics.telemetry import TELEMETRY
from authsvc.app.server import Server

SERVER: Sequence[Metric[Server]] = CALLS
SERVICE: Sequence[Metric[Running]] = (
    *HTTP, *LOGINS, *LIMITS, *SATURATION, *REVOCATIONS, *KEYS, *OPERATION, *MESSAGES,
)  # fmt: skip

# By title.
SECTIONS: Sequence[tuple[str, Sequence[Metric[Any]]]] = (
    ("Calls, connections and certificates", (*CALLS, *HTTP)),
    ("Saturation", SATURATION),
    ("Logins and incidents", LOGINS),
    ("Limits and blocks", LIMITS),
    ("Revocations", REVOCATIONS),
    ("Keys", KEYS),
    ("Messages and audit log", MESSAGES),
    ("Process, settings and database", OPERATION),
    ("Telemetry", TELEMETRY),
)
