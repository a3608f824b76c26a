"""Clients of authsvc.client, connected to the service under test as the holder of any role."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from authsvc.client import AsyncClient, Client
from tests.support.certificates import Authority, Certificate
from tests.support.probe import identity_of


@dataclass(frozen=True)
class TlsFiles:
    """The files of a client's mutual TLS, as the parameters of a client."""

    folder: Path
    authority: Authority

    def write(self, certificate: Certificate) -> None:
        """Write the client's certificate and key."""
        (self.folder / "client.crt").write_bytes(certificate.certificate)
        (self.folder / "client.key").write_bytes(certificate.key)

    def write_for(self, caller: str) -> None:
        """Write a new certificate of the caller with this role."""
        self.write(self.authority.caller(identity_of(caller)))

    @property
    def parameters(self) -> dict[str, Any]:
        names = {"ca": "ca.crt", "cert": "client.crt", "key": "client.key"}
        return {name: self.folder / file for name, file in names.items()}


def tls_files(folder: Path, authority: Authority, caller: str = "app") -> TlsFiles:
    """Write the files of the caller with this role into a new folder."""
    folder.mkdir()
    files = TlsFiles(folder, authority)
    (folder / "ca.crt").write_bytes(authority.certificate)
    files.write_for(caller)
    return files


@pytest.fixture
def app_files(tmp_path: Path, authority: Authority) -> TlsFiles:
    """The files of the caller with the role `app`."""
    return tls_files(tmp_path / "app_tls", authority)


OpenAsync = Callable[..., AsyncClient]
OpenSync = Callable[..., Client]


@pytest_asyncio.fixture
async def open_async(tmp_path: Path, authority: Authority) -> AsyncIterator[OpenAsync]:
    """Opens asynchronous clients: `open_async(port, caller, **options)`."""
    async with AsyncExitStack() as stack:

        def opened(port: int, caller: str = "app", **options: Any) -> AsyncClient:
            client = AsyncClient(**_parameters(tmp_path, authority, port, caller), **options)
            stack.push_async_callback(client.close)
            return client

        yield opened


@pytest.fixture
def open_sync(tmp_path: Path, authority: Authority) -> Iterator[OpenSync]:
    """Opens clients for threads: `open_sync(port, caller, **options)`."""
    with ExitStack() as stack:

        def opened(port: int, caller: str = "app", **options: Any) -> Client:
            client = Client(**_parameters(tmp_path, authority, port, caller), **options)
            stack.callback(client.close)
            return client

        yield opened


def _parameters(tmp_path: Path, authority: Authority, port: int, caller: str) -> dict[str, Any]:
    folder = tmp_path / f"tls_of_{caller}"
    files = TlsFiles(folder, authority) if folder.exists() else tls_files(folder, authority, caller)
    return {"target": f"127.0.0.1:{port}"} | files.parameters
