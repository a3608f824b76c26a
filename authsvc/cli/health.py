"""Owns `authsvc health`: checks the health of a service over mutual TLS."""

from pathlib import Path
from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from authsvc.cli.connection import credentials_of, open_channel, target_of
from authsvc.cli.output import DEVELOPMENT, fail, run
from authsvc.errors import ServerError

_LONGEST_TIMEOUT = 3_600


def health(
    target: Annotated[
        str | None,
        typer.Option(
            help="The address of the service; by default the one in the state folder.",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path,
        typer.Option(
            "--state",
            help="The state folder of `authsvc dev`, for the address and the certificates.",
        ),
    ] = DEVELOPMENT,
    ca: Annotated[
        Path | None,
        typer.Option(help="The CA certificate; by default the state folder's.", show_default=False),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(
            help="The client certificate; by default that of the role app.", show_default=False
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="The key of the client certificate.", show_default=False),
    ] = None,
    server_name: Annotated[
        str,
        typer.Option(
            help="The name to expect in the service's certificate. By default the host of the"
            " target; if that is this machine, any name in the certificate.",
            show_default=False,
        ),
    ] = "",
    timeout: Annotated[float, typer.Option(help="How long to wait, in seconds.")] = 5.0,
) -> None:
    """Check the health of a service; exit code 0 if it is serving, 1 if not.

    Any client certificate signed by the service's CA is accepted.
    """
    if not 0 < timeout <= _LONGEST_TIMEOUT:
        fail(f"--timeout is more than 0 and at most {_LONGEST_TIMEOUT} seconds")
    target = target or target_of(folder)
    certs = folder / "certs"
    client = certs / "clients" / "app"
    credentials = credentials_of(
        ca or certs / "ca.crt",
        cert or client.with_suffix(".crt"),
        key or client.with_suffix(".key"),
    )
    status = run(lambda: health_status(target, server_name, credentials, timeout))
    if status != "SERVING":
        fail(f"{target} is {status}")
    print(status)


async def health_status(
    target: str, server_name: str, credentials: grpc.ChannelCredentials, deadline: float
) -> str:
    """Return the status of the service at `target`, such as SERVING.

    Raises ServerError if it does not answer; the message says why.
    """
    async with await open_channel(target, server_name, credentials, deadline) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=deadline)
        except grpc.aio.AioRpcError as error:
            raise ServerError(
                f"{target} does not answer: {error.code().name}: {error.details()}"
            ) from None
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
