"""Owns `authsvc health`: checks the health of a service over mutual TLS."""

import ssl
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from authsvc.cli.connection import credentials_of, open_channel, target_of
from authsvc.cli.output import (
    DEVELOPMENT,
    ConfigOption,
    SecretsOption,
    fail,
    run,
    settings_of,
)
from authsvc.cli.scraping import client_tls, own_tls, own_url
from authsvc.errors import ServerError

_LONGEST_TIMEOUT = 3_600


def health(  # noqa: PLR0917 - options
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
    http: Annotated[
        str | None,
        typer.Option(
            help="The address of the HTTP port, such as http://localhost:8081: asks /readyz there,"
            " which needs no client certificate.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="How long to wait, in seconds.")] = 5.0,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Check the health of a service; exit code 0 if it is serving, 1 if not.

    Any client certificate signed by the service's CA is accepted. Where there is none, the service
    of the settings is asked on this machine, by /readyz.
    """
    if not 0 < timeout <= _LONGEST_TIMEOUT:
        fail(f"--timeout is more than 0 and at most {_LONGEST_TIMEOUT} seconds")
    if http is not None:
        try:
            _check_ready(http, client_tls(ca, None, None), timeout)
        except ServerError as error:
            fail(str(error))
        print("SERVING")
        return
    is_of_settings = config is not None and not (folder / "certs").is_dir()
    if is_of_settings and not any((target, ca, cert, key)):
        settings = settings_of(config, secrets)
        _check_ready(own_url(settings).removesuffix("/metrics"), own_tls(settings), timeout)
        print("SERVING")
        return
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


def _check_ready(address: str, tls: ssl.SSLContext | None, timeout: float) -> None:
    """End the command unless /readyz at `address` answers 200 within `timeout` seconds."""
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path.strip("/"):
        fail(f"--http: expected an address such as http://localhost:8081, got {address!r}")
    try:
        # Not urllib's own: a proxy for outbound requests is not for calls within.
        if parts.scheme == "https":
            port: HTTPConnection = HTTPSConnection(parts.netloc, timeout=timeout, context=tls)
        else:
            port = HTTPConnection(parts.netloc, timeout=timeout)
        with closing(port):
            port.request("GET", "/readyz")
            answer = port.getresponse()
            why = answer.read(1_000).decode(errors="replace").strip()
    except (OSError, HTTPException, ValueError) as error:
        fail(f"{address} does not answer: {str(error) or type(error).__name__}")
    if answer.status != HTTPStatus.OK:
        fail(f"{address} is not ready: {why.removeprefix('not ready: ')}")


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
