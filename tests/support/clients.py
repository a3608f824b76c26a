"""Clients of authsvc.client, connected to the service under test as the holder of any role."""

import asyncio
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
        """The files, as a client takes them."""
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
    """Opens asynchronous clients: `open_async(port or target, caller, **options)`."""
    async with AsyncExitStack() as stack:

        def opened(port: int | str, caller: str = "app", **options: Any) -> AsyncClient:
            client = AsyncClient(**_parameters(tmp_path, authority, port, caller), **options)
            stack.push_async_callback(client.close)
            return client

        yield opened


@pytest.fixture
def open_sync(tmp_path: Path, authority: Authority) -> Iterator[OpenSync]:
    """Opens clients for threads: `open_sync(port or target, caller, **options)`."""
    with ExitStack() as stack:

        def opened(port: int | str, caller: str = "app", **options: Any) -> Client:
            client = Client(**_parameters(tmp_path, authority, port, caller), **options)
            stack.callback(client.close)
            return client

        yield opened


def _parameters(
    tmp_path: Path, authority: Authority, port: int | str, caller: str
) -> dict[str, Any]:
    folder = tmp_path / f"tls_of_{caller}"
    files = TlsFiles(folder, authority) if folder.exists() else tls_files(folder, authority, caller)
    target = port if isinstance(port, str) else f"127.0.0.1:{port}"
    return {"target": target} | files.parameters


class Twin:
    """Either client: its calls and streams are awaited, those of threads in a thread."""

    def __init__(self, client: AsyncClient | Client) -> None:
        self.client: Any = client

    async def call(self, rpc: str, request: Any, **options: Any) -> Any:
        """Call `service.Rpc` of the client; return the response."""
        service, _, name = rpc.partition(".")
        rpc_of_client = getattr(getattr(self.client, service), name)
        if isinstance(self.client, AsyncClient):
            return await rpc_of_client(request, **options)
        # With the context of this task, as a thread of a request has its request's.
        return await asyncio.to_thread(rpc_of_client, request, **options)

    async def stream(self, rpc: str, request: Any, **options: Any) -> Any:
        """Return the stream of `service.Rpc`."""
        service, _, name = rpc.partition(".")
        return getattr(getattr(self.client, service), name)(request, **options)

    async def next_of(self, stream: Any) -> Any:
        """Return the next response, or None at the end."""
        if isinstance(self.client, AsyncClient):
            return await anext(stream, None)
        return await asyncio.to_thread(next, stream, None)

    async def close(self) -> None:
        if isinstance(self.client, AsyncClient):
            await self.client.close()
        else:
            self.client.close()


OpenTwin = Callable[..., Twin]


@pytest.fixture(params=["asyncio", "threads"])
def open_twin(
    request: pytest.FixtureRequest, open_async: OpenAsync, open_sync: OpenSync
) -> OpenTwin:
    """Opens either client: the test runs with both."""
    opened = open_async if request.param == "asyncio" else open_sync
    return lambda *arguments, **options: Twin(opened(*arguments, **options))
