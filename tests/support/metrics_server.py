"""Replicas that only have metrics, which a test writes: real HTTP, without a service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web


class MetricsServer:
    """Answers /metrics with `text`, or with `status` and nothing; `url` is where."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.status = 200
        self.url = ""

    @property
    def name(self) -> str:
        return self.url.partition("://")[2]

    async def answer(self, _request: web.Request) -> web.Response:
        if self.status != 200:
            return web.Response(status=self.status)
        return web.Response(text=self.text)


@asynccontextmanager
async def metrics_server(text: str, port: int = 0) -> AsyncIterator[MetricsServer]:
    """Serve these metrics."""
    server = MetricsServer(text)
    app = web.Application()
    app.router.add_get("/metrics", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()
