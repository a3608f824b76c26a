"""The start of the service: what is reported before everything is open."""

import asyncio
import socket

import aiohttp
import pytest

from authsvc.app.server import Server
from authsvc.app.web import Web
from authsvc.config import Settings
from authsvc.errors import ServerError
from tests.support.accounts import key
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


async def test_address_without_a_host_is_every_interface(
    start_service: StartService, live_settings: Settings
) -> None:
    everywhere = {"address": ":0"}
    service = await start_service(
        live_settings.model_copy(
            update={
                "grpc": live_settings.grpc.model_copy(update=everywhere),
                "http": live_settings.http.model_copy(update=everywhere),
            }
        )
    )
    for host in ("127.0.0.1", "::1"):
        _, writer = await asyncio.open_connection(host, service.app.grpc_port)
        writer.close()
    # Each family has a port of its own, as none was asked for.
    listeners = service.app.web._listener.sockets
    assert {each.family for each in listeners} == {socket.AF_INET, socket.AF_INET6}


async def test_start_is_refused_if_a_key_in_use_is_missing(
    start_service: StartService, live_settings: Settings
) -> None:
    await start_service(live_settings)
    secrets = live_settings.secrets.model_copy(update={"keyring": (key("another"),)})
    with pytest.raises(ServerError, match=r"secrets\.keyring has no key"):
        await start_service(live_settings.model_copy(update={"secrets": secrets}))
