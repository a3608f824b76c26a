"""Owns `authsvc health`: checks the health of a service over mutual TLS."""

from pathlib import Path
from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from authsvc.cli.output import DEVELOPMENT, fail, run

_CERTS = DEVELOPMENT / "certs"


def health(
    target: Annotated[str, typer.Option(help="The address of the service.")] = "127.0.0.1:8443",
    ca: Annotated[Path, typer.Option(help="The CA certificate.")] = _CERTS / "ca.crt",
    cert: Annotated[Path, typer.Option(help="The client certificate.")] = (
        _CERTS / "clients" / "app.crt"
    ),
    key: Annotated[Path, typer.Option(help="The key of the client certificate.")] = (
        _CERTS / "clients" / "app.key"
    ),
    timeout: Annotated[float, typer.Option(help="How long to wait, in seconds.")] = 5.0,
) -> None:
    """Check the health of a service; exit code 0 if it is serving, 1 if not.

    Any client certificate signed by the service's CA is accepted.
    """
    try:
        credentials = grpc.ssl_channel_credentials(
            ca.read_bytes(), key.read_bytes(), cert.read_bytes()
        )
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    status = run(lambda: _status(target, credentials, timeout))
    if status != "SERVING":
        fail(f"{target} is {status}")
    print(status)


async def _status(target: str, credentials: grpc.ChannelCredentials, deadline: float) -> str:
    async with grpc.aio.secure_channel(target, credentials) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=deadline)
        except grpc.aio.AioRpcError as error:
            fail(f"{target} does not answer: {error.code().name}: {error.details()}")
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
