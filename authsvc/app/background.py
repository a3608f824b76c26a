"""Owns the background jobs: their list, and their supervision."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from authsvc.app.build import Parts
from authsvc.core.audit.forwarding import AuditForwarding
from authsvc.core.messages.delivery import Deliverer

log = structlog.get_logger("authsvc.service")

_RESTART_DELAY = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """Work that runs until it is cancelled; `name` appears in the log."""

    name: str
    run: Callable[[], Awaitable[None]]


def background_jobs(
    parts: Parts,
    deliverer: Deliverer,
    forwarding: AuditForwarding | None,
    watch_health: Callable[[], Awaitable[None]],
    watch_certificate: Callable[[], Awaitable[None]],
    measure_lag: Callable[[], Awaitable[None]],
) -> Sequence[Job]:
    """Return all jobs of the running service."""
    return (
        Job("revocation-reader", parts.revocation_reader.run),
        Job("revocation-watch", parts.use.revocation_watch.run),
        Job("token-validity", parts.token_validity.run),
        Job("doorbell", parts.doorbell.run),
        Job("login-freezes", parts.use.login_freezes.run),
        Job("ip-blocks", parts.block_list.run),
        Job("violations", parts.violations.run),
        Job("definitions", parts.definitions.run),
        Job("last-use", parts.session_last_use.run),
        Job("last-use-of-api-keys", parts.api_key_last_use.run),
        Job("signing-keys", parts.use.signing_keys.run),
        Job("audit-watch", parts.use.audit_watch.run),
        Job("retention", parts.use.retention.run),
        Job("detections", parts.use.detections.run),
        Job("delivery", deliverer.run),
        Job("health", watch_health),
        Job("certificate", watch_certificate),
        Job("loop-lag", measure_lag),
        *((Job("audit-forward", forwarding.run),) if forwarding else ()),
    )


class Background:
    """Runs jobs concurrently; restarts each that ends or fails after `restart_delay` seconds."""

    def __init__(self, jobs: Iterable[Job], restart_delay: float = _RESTART_DELAY) -> None:
        self._jobs = jobs
        self._restart_delay = restart_delay
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start all jobs."""
        self._tasks = [
            asyncio.create_task(self._supervise(job), name=job.name) for job in self._jobs
        ]

    async def stop(self) -> None:
        """Cancel all jobs and return when they have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _supervise(self, job: Job) -> None:
        while True:
            try:
                await job.run()
            except Exception:
                # Background work survives any failure: the cause may be gone by the next run.
                log.exception("background_job_failed", work=job.name)
            await asyncio.sleep(self._restart_delay)
