"""The examples with FastAPI and Django run, behind the guard, as the docs say."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from authsvc.dev.ports import free
from authsvc.v1.auth_service_pb2 import LogoutRequest
from tests.support.certificates import Authority
from tests.support.documents import REPOSITORY
from tests.support.guarded import Answer, http_call
from tests.support.probe import identity_of
from tests.support.service import Service
from tests.world.tools import WEB

pytestmark = pytest.mark.world


async def answer_of(port: int, path: str, **headers: str) -> Answer:
    """Return the answer to a request, as soon as the application listens."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await http_call(port, "GET", path, **headers)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "uvicorn", "deploy.examples.with_fastapi:guarded", "--port", "{port}"],
        ["-m", "deploy.examples.with_django", "{port}"],
    ],
    ids=["fastapi", "django"],
)
async def test_application_is_guarded(
    command: list[str], service: Service, authority: Authority, tmp_path: Path
) -> None:
    app = authority.caller(identity_of("app"))
    (tmp_path / "clients").mkdir()
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    (tmp_path / "clients" / "app.crt").write_bytes(app.certificate)
    (tmp_path / "clients" / "app.key").write_bytes(app.key)
    port = int(free("127.0.0.1:0").rpartition(":")[2])
    process = await asyncio.create_subprocess_exec(
        # Without the packages of this environment.
        *(sys.executable, "-S", *(each.format(port=port) for each in command)),
        env=os.environ
        | {
            "PYTHONPATH": f"{REPOSITORY}:{WEB.bin}",
            "AUTHSVC": f"localhost:{service.clients.port}",
            "ISSUER": service.settings.tokens.issuer,
            "CERTIFICATES": str(tmp_path),
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert (await answer_of(port, "/orders/7")).status == 401
        tokens = await service.new_session()
        bearing = {"authorization": f"Bearer {tokens.access_token}"}
        answer = await answer_of(port, "/orders/7", **bearing)
        assert json.loads(answer.body) == {"order": 7, "user": tokens.user_id}
        if "uvicorn" in command:
            posted = await http_call(port, "POST", "/orders", **bearing)
            assert json.loads(posted.body) == {"user": tokens.user_id}
            assert (await answer_of(port, "/openapi.json")).status == 200
            assert (await answer_of(port, "/docs")).status == 401
        await service.auth().Logout(LogoutRequest(refresh_token=tokens.refresh_token))
        async with asyncio.timeout(60):
            while (await answer_of(port, "/orders/7", **bearing)).status != 401:
                pass
    finally:
        process.terminate()
        _, errors = await process.communicate()
        assert b"Traceback" not in errors, errors.decode()
