"""The page for clients: its commands show the details of errors."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from authsvc.app.application import Application
from tests.support.documents import REPOSITORY, page
from tests.world.tools import GRPCURL

_BUILD, _GRPCURL, _BUF = (
    block for block in page("docs/clients/README.md").blocks("sh") if ".binpb" in block
)
_ADDRESS = "127.0.0.1:8443"


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder is like a checkout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUF_CACHE_DIR", str(tmp_path / "buf"))
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "protos").symlink_to(REPOSITORY / "protos")


async def output_of(shell: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *("sh", "-ec", shell), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return output.decode()


async def test_buf_decodes_detail() -> None:
    assert '{"reason":"FIELD_INVALID","domain":"authsvc"}' in await output_of(_BUILD + _BUF)


@pytest.mark.world
async def test_grpcurl_shows_details(running: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{GRPCURL.bin}:{os.environ['PATH']}")
    assert _GRPCURL.count(_ADDRESS) == 1
    call = _GRPCURL.replace(_ADDRESS, f"127.0.0.1:{running.grpc_port}")
    shown = await output_of(_BUILD + call)
    assert "CREDENTIALS_INVALID" in shown
    assert "requestId" in shown
