"""Owns the health service: whether each gRPC service can do its work now (grpc.health.v1)."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2

from authsvc.errors import Overloaded

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

_Status = health_pb2.HealthCheckResponse


class Health:
    """Answers for `services` and for "", the server as a whole; all are in the same state.

    It starts as NOT_SERVING. At most `max_watches` clients may watch at once.
    """

    def __init__(self, services: Iterable[str], max_watches: int) -> None:
        self._services = frozenset({"", *services})
        self._max_watches = max_watches
        self._watches = 0
        self._serving = False
        self._ended = False
        self._changed = asyncio.Event()

    def set_serving(self, *, serving: bool) -> None:
        """Say whether the service can do its work; watchers are told of a change."""
        if serving != self._serving and not self._ended:
            self._serving = serving
            self._wake()

    def end(self) -> None:
        """Say NOT_SERVING for good, and end the watches, which would hold up a graceful stop."""
        self._serving, self._ended = False, True
        self._wake()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: "Context"
    ) -> health_pb2.HealthCheckResponse:
        """Return a service's state; NOT_FOUND if there is no such service."""
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
        """Send a service's state now and whenever it changes; SERVICE_UNKNOWN if there is none."""
        if self._watches >= self._max_watches:
            raise Overloaded("Too many clients watch the service's health.")
        self._watches += 1
        try:
            told = None
            while True:
                changed = self._changed
                status = self._status()
                if request.service not in self._services:
                    status = _Status.SERVICE_UNKNOWN
                if status != told:
                    yield _Status(status=status)
                    told = status
                if self._ended:
                    return
                await changed.wait()
        finally:
            self._watches -= 1

    def _status(self) -> int:
        status: int = _Status.SERVING if self._serving else _Status.NOT_SERVING
        return status

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
