"""Owns `authsvc certs`: the development authority and the certificates it issues."""

import re
from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from authsvc.cli.output import DEVELOPMENT, JsonOption, emit, fail
from authsvc.dev import certificates
from authsvc.dev.certificates import CertificateError, Issued

app = typer.Typer(
    no_args_is_help=True,
    help="Certificates for development: an authority of your own and what it vouches for.",
)

FolderOption = Annotated[
    Path, typer.Option("--folder", "-f", help="Where the authority and its certificates are.")
]

# SPIFFE-ID, sections 2.1 to 2.4.
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}", re.ASCII)
_SEGMENT = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]+", re.ASCII)
_LONGEST_IDENTITY = 2_048
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_LONGEST_DNS_NAME = 253


@app.command()
def init(folder: FolderOption = DEVELOPMENT / "certs", as_json: JsonOption = False) -> None:
    """Make an authority, a server certificate and a client certificate for each role.

    Safe to repeat: what is good for another week is kept, the rest is made anew.
    `authsvc dev` does this by itself.
    """
    try:
        issued = certificates.init(folder)
    except CertificateError as error:
        fail(str(error))
    _show(issued, as_json=as_json)


@app.command()
def issue(
    name: Annotated[str, typer.Argument(help="What to call the files, such as billing.")],
    identity: Annotated[
        str | None,
        typer.Option(
            help="Who the holder is, such as spiffe://authsvc.dev/billing.",
            show_default="spiffe://authsvc.dev/NAME, unless --dns is given",
        ),
    ] = None,
    dns: Annotated[
        list[str] | None,
        typer.Option(help="A host name: a client's only name, or one of a server's (repeatable)."),
    ] = None,
    ip: Annotated[
        list[str] | None, typer.Option(help="An IP address of a server (repeatable).")
    ] = None,
    server: Annotated[
        bool, typer.Option("--server", help="Issue it for a server instead of a client.")
    ] = False,
    days: Annotated[
        int, typer.Option(min=1, max=3650, help="How long it is good for.")
    ] = certificates.LIFETIME.days,
    folder: FolderOption = DEVELOPMENT / "certs",
    as_json: JsonOption = False,
) -> None:
    """Issue a certificate with a key of its own, so that another service can call this one.

    What the holder may do is for the settings to say, where its identity gets roles.
    """
    hosts, addresses = [_dns_name(host) for host in dns or ()], [_ip(text) for text in ip or ()]
    uris = [_spiffe_id(identity)] if identity is not None else []
    if not uris and not hosts and not addresses:
        uris = [f"spiffe://{certificates.TRUST_DOMAIN}/{name}"]
    if not server and (addresses or len(uris) + len(hosts) != 1):
        fail("a client has one name: --identity, or a single --dns")
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
    print("To let it call, give its identity roles in the settings:\n")
    print(f'  [[callers]]\n  identity = "{issued.names.labels[0]}"\n  roles = ["app"]')


def _spiffe_id(text: str) -> str:
    scheme, _, rest = text.partition("://")
    domain, _, path = rest.partition("/")
    if scheme != "spiffe":
        fail(f"identity {text!r} does not begin with spiffe://")
    if not _TRUST_DOMAIN.fullmatch(domain):
        fail(f"identity {text!r} needs a trust domain of lower-case letters, digits, '.-_'")
    if not path:
        fail(f"identity {text!r} needs a path behind the trust domain: spiffe://{domain}/billing")
    if not all(_SEGMENT.fullmatch(segment) for segment in path.split("/")):
        fail(f"identity {text!r} has a path with more than letters, digits, '.-_' between slashes")
    if len(text) > _LONGEST_IDENTITY:
        fail(f"the identity is longer than {_LONGEST_IDENTITY} characters")
    return text


def _dns_name(text: str) -> str:
    name = text.lower()
    if len(name) > _LONGEST_DNS_NAME or not _DNS_NAME.fullmatch(name):
        fail(f"{text!r} is not a host name")
    return name


def _ip(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        fail(f"{text!r} is not an IP address")
