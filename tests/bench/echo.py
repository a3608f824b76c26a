"""Owns the bare echo: the minimum cost of a call over mutual TLS, as a baseline."""

import asyncio
import sys
from pathlib import Path

import grpc
import uvloop

METHOD = "/bench.Echo/Echo"


async def _echo(request: bytes, _context: object) -> bytes:
    return request


async def main(certs: Path) -> None:
    """Serve until killed; print the port."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_echo)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("bench.Echo", {"Echo": handler}),)
    )
    credentials = grpc.ssl_server_credentials(
        [((certs / "server.key").read_bytes(), (certs / "server.crt").read_bytes())],
        (certs / "ca.crt").read_bytes(),
        require_client_auth=True,
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
