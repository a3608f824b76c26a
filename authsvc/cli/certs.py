"""Owns `authsvc certs`: the development CA and the certificates it issues."""

import re
from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from authsvc.cli.groups import Commands
from authsvc.cli.output import DEVELOPMENT, JsonOption, emit, fail
from authsvc.dev import certificates
from authsvc.dev.certificates import CertificateError, Issued

app = Commands(help="Manage a development CA and the certificates it issues.")

FolderOption = Annotated[
    Path, typer.Option("--folder", "-f", help="The folder of the CA and its certificates.")
]

# SPIFFE-ID, sections 2.1 to 2.4.
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}", re.ASCII)
_SEGMENT = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]+", re.ASCII)
_MAX_IDENTITY = 2_048
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_MAX_DNS_NAME = 253


@app.command()
def init(folder: FolderOption = DEVELOPMENT / "certs", as_json: JsonOption = False) -> None:
    """Create a CA, a server certificate and a client certificate for each role.

    Safe to repeat: certificates valid for another week are kept, the others are replaced.
    `authsvc dev` does this automatically.
    """
    try:
        issued = certificates.init(folder)
    except CertificateError as error:
        fail(str(error))
    _show(issued, as_json=as_json)


@app.command()
def issue(
    name: Annotated[str, typer.Argument(help="The name of the files, such as billing.")],
    identity: Annotated[
        str | None,
        typer.Option(
            help="The identity of the client, such as spiffe://authsvc.dev/billing.",
            show_default="spiffe://authsvc.dev/NAME, unless --dns is given",
        ),
    ] = None,
    dns: Annotated[
        list[str] | None,
        typer.Option(
            help="A DNS name: the only name of a client, or one of a server's (repeatable)."
        ),
    ] = None,
    ip: Annotated[
        list[str] | None, typer.Option(help="An IP address of a server (repeatable).")
    ] = None,
    server: Annotated[
        bool, typer.Option("--server", help="Issue it for a server instead of a client.")
    ] = False,
    days: Annotated[
        int, typer.Option(min=1, max=3650, help="How long it is valid, in days.")
    ] = certificates.LIFETIME.days,
    folder: FolderOption = DEVELOPMENT / "certs",
    as_json: JsonOption = False,
) -> None:
    """Issue a certificate and key, so that another service can call this one.

    What the client may do depends on the roles that the settings give its identity.
    """
    hosts, addresses = [_dns_name(host) for host in dns or ()], [_ip(text) for text in ip or ()]
    uris = [_spiffe_id(identity)] if identity is not None else []
    if not uris and not hosts and not addresses:
        uris = [f"spiffe://{certificates.TRUST_DOMAIN}/{name}"]
    if not server and (addresses or len(uris) + len(hosts) != 1):
        fail("a client needs exactly one name: --identity or a single --dns")
    try:
        paths = certificates.issue(
            folder,
            name,
            uris=uris,
            dns=hosts,
            ips=addresses,
            client=not server,
            server=server,
            lifetime=timedelta(days=days),
        )
        issued = certificates.describe(*paths, made=True)
    except CertificateError as error:
        fail(str(error))
    _show([issued], as_json=as_json)
    if not server and not as_json:
        _show_how_to_allow(issued)


def _show(issued: Sequence[Issued], *, as_json: bool) -> None:
    rows = [
        {
            "certificate": str(one.certificate),
            "key": str(one.key),
            "names": one.names.labels,
            "expire_time": one.expire_time,
            "made": "now" if one.made else "earlier",
        }
        for one in issued
    ]
    emit(rows, as_json=as_json, title="Certificates")


def _show_how_to_allow(issued: Issued) -> None:
    print("To allow its calls, give its identity roles in the settings:\n")
    print(f'  [[callers]]\n  identity = "{issued.names.labels[0]}"\n  roles = ["app"]')


def _spiffe_id(text: str) -> str:
    scheme, _, rest = text.partition("://")
    domain, _, path = rest.partition("/")
    if scheme != "spiffe":
        fail(f"identity {text!r} does not start with spiffe://")
    if not _TRUST_DOMAIN.fullmatch(domain):
        fail(f"identity {text!r} needs a trust domain of lower-case letters, digits, '.-_'")
    if not path:
        fail(f"identity {text!r} needs a path after the trust domain: spiffe://{domain}/billing")
    if not all(_SEGMENT.fullmatch(segment) for segment in path.split("/")):
        fail(
            f"identity {text!r} may have only letters, digits and '.-_' between slashes of its path"
        )
    if len(text) > _MAX_IDENTITY:
        fail(f"the identity is longer than {_MAX_IDENTITY} characters")
    return text


def _dns_name(text: str) -> str:
    name = text.lower()
    if len(name) > _MAX_DNS_NAME or not _DNS_NAME.fullmatch(name):
        fail(f"{text!r} is not a host name")
    return name


def _ip(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        fail(f"{text!r} is not an IP address")
