"""TLS to the database, with PgBouncer as the server that speaks it."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from authsvc.config import DatabaseSettings
from authsvc.errors import StoreUnavailable
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.failures import describe
from tests.support.certificates import Authority
from tests.support.pgbouncer import PgBouncer
from tests.support.ports import port_of
from tests.world.install import PGBOUNCER

pytestmark = pytest.mark.world


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes], Path]:
    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


async def test_certificate_is_checked_as_the_address_says(
    database_dsn: str, write: Callable[[str, bytes], Path], unheard: socket.socket
) -> None:
    authority, stranger = Authority(), Authority("Another authority")
    server = authority.server()
    trusted = write("ca.crt", authority.certificate)
    untrusted = write("other.crt", stranger.certificate)
    port = port_of(unheard)
    unheard.close()
    async with PgBouncer(
        PGBOUNCER,
        database_dsn,
        listen_addr="127.0.0.1",
        listen_port=port,
        client_tls_sslmode="require",
        client_tls_key_file=server.key,
        client_tls_cert_file=server.certificate,
    ) as pooler:

        async def outcome(query: str) -> str:
            settings = DatabaseSettings.model_validate({"url": f"{pooler.tcp_dsn}?{query}"})
            try:
                database = await Database.open(settings)
            except StoreUnavailable as error:
                return describe(error)
            await database.close()
            return "connected"

        assert await outcome("sslmode=require") == "connected"
        assert await outcome(f"sslmode=verify-full&sslrootcert={trusted}") == "connected"
        for query in (
            f"sslmode=verify-full&sslrootcert={untrusted}",
            f"sslmode=verify-ca&sslrootcert={untrusted}",
            "sslmode=verify-full",
            "sslmode=verify-full&sslrootcert=system",
        ):
            assert (await outcome(query)).startswith("the server's certificate is not trusted: ")
        assert await outcome("sslmode=disable") != "connected"
