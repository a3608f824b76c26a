"""A local service of breached passwords over real HTTP, in the form of haveibeenpwned.com."""

import hashlib
from collections.abc import AsyncIterator

import pytest_asyncio
from aiohttp import web

from authsvc.config import BreachedPasswordSettings
from tests.support.clock import FakeClock
from tests.support.provider import Handler, LocalProvider, serving


def sha1(password: str) -> str:
    """Return the SHA-1 of a password, as the service knows it."""
    return hashlib.sha1(password.encode(), usedforsecurity=False).hexdigest().upper()


class RangeServer(LocalProvider):
    """Knows the passwords in `counts`, and pads every answer; `handler` answers instead, if set."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.counts: dict[str, int] = {}
        self.handler: Handler | None = None

    def asked_by(self, **more: object) -> BreachedPasswordSettings:
        """Return the settings that name this service."""
        return BreachedPasswordSettings.model_validate(
            {"address": f"{self.address}/range", "timeout": "10s"} | more
        )

    async def dispatch(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        self.headers.append(request.headers)
        if self.handler is not None:
            return await self.handler(request)
        prefix = request.path.removeprefix("/range/")
        lines = [f"{number:035X}:0" for number in range(30)]
        lines += [
            f"{sha1(password)[5:]}:{count}"
            for password, count in self.counts.items()
            if sha1(password).startswith(prefix)
        ]
        return web.Response(text="\r\n".join(lines))


@pytest_asyncio.fixture
async def ranges(clock: FakeClock) -> AsyncIterator[RangeServer]:
    """A listening service of breached passwords that knows none."""
    server = RangeServer(clock)
    async with serving(server):
        yield server
