"""The start of the service: what is reported before everything is open."""

import aiohttp
import pytest

from authsvc.app.server import Server
from authsvc.app.web import Web
from authsvc.config import Settings
from tests.support.service import StartService


async def test_not_ready_before_grpc_listens(
    start_service: StartService, live_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probes ask /readyz for both ports."""
    answers: list[int] = []
    start_web, start_server = Web.start, Server.start

    async def remember(web: Web) -> None:
        await start_web(web)
        answers.append(web.port)

    async def ask_before(server: Server) -> None:
        async with aiohttp.ClientSession() as session:
            for _ in range(20):
                async with session.get(f"http://127.0.0.1:{answers[0]}/readyz") as response:
                    answers.append(response.status)
        await start_server(server)

    monkeypatch.setattr(Web, "start", remember)
    monkeypatch.setattr(Server, "start", ask_before)
    service = await start_service(live_settings)
    assert set(answers[1:]) == {503}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{service.app.http_port}/readyz") as response,
    ):
        assert response.status == 200
