"""Replicas that only have metrics, which a test writes: real HTTP, without a service."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web


class MetricsServer:
    """Answers /metrics with `text`, or with `status` and nothing; `url` is where.

    A redirect leads to `/elsewhere`, where the same is. `hosts` are those that were asked for.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.status = 200
        self.url = ""
        self.hosts: list[str] = []
        self._asked = asyncio.Event()

    @property
    def name(self) -> str:
        return self.url.partition("://")[2]

    async def answer(self, request: web.Request) -> web.Response:
        self.hosts.append(request.host)
        self._asked.set()
        if self.status != 200 and request.path == "/metrics":
            return web.Response(status=self.status, headers={"Location": "/elsewhere"})
        return web.Response(text=self.text)

    async def until_asked(self) -> None:
        """Wait until it has been asked."""
        await self._asked.wait()


@asynccontextmanager
async def metrics_server(
    text: str, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[MetricsServer]:
    """Serve these metrics, on IPv4."""
    server = MetricsServer(text)
    app = web.Application()
    app.router.add_get("/metrics", server.answer)
    app.router.add_get("/elsewhere", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    scheme = "https" if tls else "http"
    server.url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()
