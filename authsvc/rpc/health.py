"""Owns the health service (grpc.health.v1): it reports whether each gRPC service can work."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

_Status = health_pb2.HealthCheckResponse


class Health:
    """Reports on `services` and on "", the whole server; all are in the same state.

    The initial state is NOT_SERVING.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset({"", *services})
        self._serving = False
        self._ended = False
        self._changed = asyncio.Event()

    def set_serving(self, *, serving: bool) -> None:
        """Set whether the service can work, and notify watching clients of a change."""
        if serving != self._serving and not self._ended:
            self._serving = serving
            self._wake()

    def end(self) -> None:
        """Report NOT_SERVING from now on, and end watches, which would delay a graceful stop."""
        self._serving, self._ended = False, True
        self._wake()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: "Context"
    ) -> health_pb2.HealthCheckResponse:
        """Return a service's state, or NOT_FOUND if there is no such service."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "No such service.")
        return _Status(status=self._status())

    async def List(
        self, _request: health_pb2.HealthListRequest, _context: "Context"
    ) -> health_pb2.HealthListResponse:
        """Return the state of each service."""
        response = health_pb2.HealthListResponse()
        for service in self._services:
            response.statuses[service].status = self._status()
        return response

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, _context: "Context"
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Send a service's state now and on each change, or SERVICE_UNKNOWN if there is none."""
        sent = None
        while True:
            changed = self._changed
            status = self._status()
            if request.service not in self._services:
                status = _Status.SERVICE_UNKNOWN
            if status != sent:
                yield _Status(status=status)
                sent = status
            if self._ended:
                return
            await changed.wait()

    def _status(self) -> int:
        status: int = _Status.SERVING if self._serving else _Status.NOT_SERVING
        return status

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
