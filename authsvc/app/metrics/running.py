"""Owns what the metrics of the running service are read from."""

from dataclasses import dataclass, field
from time import perf_counter

from authsvc.app.build import Parts
from authsvc.app.database_watch import DatabaseWatch
from authsvc.app.loop_lag import LoopLag
from authsvc.app.planned_stops import PlannedStops
from authsvc.app.reload import Reload
from authsvc.app.web import Web
from authsvc.config import Settings
from authsvc.core.audit.forwarding import AuditForwarding
from authsvc.core.messages.delivery import Deliverer


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The running service, apart from its gRPC server."""

    settings: Settings
    parts: Parts
    deliverer: Deliverer
    forwarding: AuditForwarding | None
    reload: Reload
    planned_stops: PlannedStops
    database_watch: DatabaseWatch
    loop_lag: LoopLag
    web: Web
    started: float = field(default_factory=perf_counter)
