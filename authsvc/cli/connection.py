"""Owns how a command reaches a running service: its address, and the client certificate."""

from ipaddress import ip_address
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.x509.oid import NameOID

from authsvc.app.addresses import split_address, unix_path
from authsvc.app.handshake import presented_certificate
from authsvc.cli.output import fail
from authsvc.dev.ports import addresses, dialled
from authsvc.errors import ServerError
from authsvc.rpc.tls_material import check_client


def target_of(state: Path) -> str:
    """Return the address of the service of `authsvc dev` with this state folder."""
    return dialled(addresses(state)["grpc"])


def credentials_of(ca: Path, cert: Path, key: Path) -> grpc.ChannelCredentials:
    """Return the credentials of a client, or end the command."""
    try:
        return read_credentials(ca, cert, key)
    except ServerError as error:
        fail(str(error))


def read_credentials(ca: Path, cert: Path, key: Path) -> grpc.ChannelCredentials:
    """Return the credentials of a client; raises ServerError if its files can't be used."""
    files = (cert, key, ca)
    try:
        material = check_client(files, [file.read_bytes() for file in files])
    except OSError as error:
        raise ServerError(f"{error.filename}: {error.strerror}") from None
    return grpc.ssl_channel_credentials(
        material.authorities_pem, material.key_pem, material.chain_pem
    )


async def open_channel(
    target: str, server_name: str, credentials: grpc.ChannelCredentials, deadline: float
) -> grpc.aio.Channel:
    """Return a channel to the service at `target`; raises ServerError if it can't be verified.

    The service's certificate has to have `server_name` or, without one, the host of the target. If
    that is this machine, any name in the certificate will do.
    """
    if not server_name and _is_local(target):
        server_name = await _name_in_certificate(target, deadline)
    # A proxy for outbound requests, which gRPC's client would use too, is not for calls within.
    options: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    return grpc.aio.secure_channel(target, credentials, options)


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
        raise ServerError(f"{target} does not answer: {error}") from None
    try:
        names = _names(certificate)
    except ValueError:
        raise ServerError(f"the certificate of {target} has invalid extensions") from None
    if not names:
        raise ServerError(f"the certificate of {target} names no host")
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
