"""Owns `authsvc health`: checks the health of a service over mutual TLS."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import grpc
import typer
from cryptography import x509
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from authsvc.app.addresses import split_address, unix_path
from authsvc.app.handshake import presented_certificate
from authsvc.cli.output import DEVELOPMENT, fail, run
from authsvc.dev.ports import addresses, dialled
from authsvc.errors import ServerError
from authsvc.rpc.tls_material import check_client

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
    target = target or dialled(addresses(folder)["grpc"])
    certs = folder / "certs"
    client = certs / "clients" / "app"
    files = (
        cert or client.with_suffix(".crt"),
        key or client.with_suffix(".key"),
        ca or certs / "ca.crt",
    )
    try:
        material = check_client(files, [file.read_bytes() for file in files])
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    except ServerError as error:
        fail(str(error))
    credentials = grpc.ssl_channel_credentials(
        material.authorities_pem, material.key_pem, material.chain_pem
    )
    status = run(lambda: health_status(target, server_name, credentials, timeout))
    if status != "SERVING":
        fail(f"{target} is {status}")
    print(status)


async def health_status(
    target: str, server_name: str, credentials: grpc.ChannelCredentials, deadline: float
) -> str:
    """Return the status of the service at `target`, such as SERVING, or end the command."""
    if not server_name and _is_local(target):
        server_name = await _name_in_certificate(target, deadline)
    options = [("grpc.ssl_target_name_override", server_name)] if server_name else []
    async with grpc.aio.secure_channel(target, credentials, options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=deadline)
        except grpc.aio.AioRpcError as error:
            fail(f"{target} does not answer: {error.code().name}: {error.details()}")
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _is_local(target: str) -> bool:
    """Return whether only this machine can answer at an address, whatever its certificate says."""
    if unix_path(target) is not None:
        return True
    host, _ = split_address(target)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _name_in_certificate(target: str, deadline: float) -> str:
    """Return a name of the service's certificate, which the connection is then verified against."""
    try:
        certificate = x509.load_der_x509_certificate(await presented_certificate(target, deadline))
    except OSError as error:
        fail(f"{target} does not answer: {error}")
    try:
        names = _names(certificate)
    except ValueError:
        fail(f"the certificate of {target} has invalid extensions")
    if not names:
        fail(f"the certificate of {target} names no host")
    return names[0].replace("*", "health", 1)


def _names(certificate: x509.Certificate) -> list[str]:
    """Return the hosts that a certificate names, by its common name if in no other way."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [
            str(part.value)
            for part in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        ]
    return [
        *found.get_values_for_type(x509.DNSName),
        *map(str, found.get_values_for_type(x509.IPAddress)),
    ]
