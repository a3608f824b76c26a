"""A folder as created by `make run`, with its own database, and a service that runs in it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from authsvc.app.application import Application
from authsvc.config import load
from authsvc.dev.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Certificates, secrets and settings in `.authsvc` of the current folder."""
    monkeypatch.chdir(tmp_path)
    made = Workspace(Path(".authsvc"))
    made.prepare()
    return made


@pytest_asyncio.fixture
async def running(workspace: Workspace, database_dsn: str) -> AsyncIterator[Application]:
    """The service as started by `make run`, but on free ports."""
    workspace.set_database(database_dsn)
    settings = load(workspace.config, secrets_dir=workspace.secrets)
    anywhere = {"address": "127.0.0.1:0"}
    app = await Application.start(
        settings.model_copy(
            update={
                "grpc": settings.grpc.model_copy(update=anywhere),
                "http": settings.http.model_copy(update=anywhere),
            }
        )
    )
    yield app
    await app.stop()
