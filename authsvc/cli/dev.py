"""Owns `authsvc dev`: runs the whole service on a developer's machine in one command."""

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from authsvc import log as logs
from authsvc.app.application import Application
from authsvc.cli.output import DEVELOPMENT, fail, run, settings_of
from authsvc.cli.serve import Signals, serve_until_signal
from authsvc.config import Settings
from authsvc.config.types import HttpListen
from authsvc.dev import ports
from authsvc.dev.certificates import CertificateError
from authsvc.dev.postgres import EmbeddedPostgres, EmbeddedPostgresError
from authsvc.dev.workspace import Workspace, WorkspaceError
from authsvc.store.postgres import migrator

_BANNER = """
[bold green]authsvc is running.[/]

  gRPC (mutual TLS)  {grpc}
  HTTP               http://{http}   /metrics /readyz /.well-known/jwks.json
  database           {database}
  certificates       {certs}/ca.crt, {certs}/clients/ROLE.crt and .key
  roles              app, edge, issuer, admin, observer
  settings           {config}
  messages           {messages}

Make a first call from another terminal:

  {call}

or take the tour:  [bold]make demo[/]        Ctrl+C stops the service and keeps its data.
"""


def dev(
    folder: Annotated[
        Path, typer.Option("--state", help="The folder for certificates, settings and data.")
    ] = DEVELOPMENT,
    grpc: Annotated[
        str | None,
        typer.Option(
            "--grpc",
            metavar="HOST:PORT",
            help="Where gRPC listens, from now on: it is written into the settings. Port 0 is any.",
            show_default=False,
        ),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(
            "--http",
            metavar="HOST:PORT",
            help="Where HTTP listens, from now on; the issuer follows.",
            show_default=False,
        ),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            envvar="AUTHSVC_DATABASE__URL",
            help="The URL of a PostgreSQL to use instead of the embedded one: postgresql://…",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run everything: PostgreSQL, certificates for each role, migrations and the service.

    All state is kept in the state folder, so the command can be stopped, killed and restarted.
    """
    workspace = Workspace(folder)
    given = {"grpc": grpc, "http": http}
    _check_addresses(given)
    taken = ports.problems(ports.addresses(folder, given))
    if taken:
        fail(*taken)
    try:
        workspace.prepare()
        workspace.set_addresses(given)
        with _database(folder, database) as (url, postgres):
            workspace.set_database(url)
            settings = settings_of(workspace.config, workspace.secrets)
            logs.configure(settings.log)
            run(lambda: _dev(workspace, settings, postgres))
    except (EmbeddedPostgresError, CertificateError, WorkspaceError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or folder}: {error.strerror or error}")


def _check_addresses(given: Mapping[str, str | None]) -> None:
    for name, address in given.items():
        if address is None:
            continue
        variable = f"AUTHSVC_{name.upper()}__ADDRESS"
        if variable in os.environ:
            fail(f"--{name} and {variable} are both set: remove one of them")
        try:
            TypeAdapter(HttpListen).validate_python(address)
        except ValidationError:
            fail(f'--{name}: "{address}" is not HOST:PORT, such as "127.0.0.1:9443"')


@contextmanager
def _database(folder: Path, given: str | None) -> Iterator[tuple[str, EmbeddedPostgres | None]]:
    if given:
        yield given, None
        return
    postgres = EmbeddedPostgres(folder)
    postgres.start()
    try:
        yield postgres.dsn(), postgres
    finally:
        postgres.stop()


async def _dev(workspace: Workspace, settings: Settings, postgres: EmbeddedPostgres | None) -> None:
    signals = Signals()
    await migrator.migrate(settings.database.url.get_secret_value())
    app = await Application.start(settings)
    supervisor = asyncio.create_task(postgres.supervise()) if postgres else None
    _print_banner(workspace, settings, app, embedded=postgres is not None)
    try:
        await serve_until_signal(app, signals, workspace.config, workspace.secrets)
    finally:
        if supervisor:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)


def _print_banner(
    workspace: Workspace, settings: Settings, app: Application, *, embedded: bool
) -> None:
    certs = workspace.certificates
    Console(highlight=False, soft_wrap=True).print(
        _BANNER.format(
            grpc=app.grpc_address,
            http=app.http_address,
            database="embedded PostgreSQL" if embedded else "the PostgreSQL in --database",
            certs=certs,
            config=workspace.config,
            messages=_messages(settings),
            call=_first_call(certs, ports.dialled(app.grpc_address)),
        )
    )


def _messages(settings: Settings) -> str:
    delivery = settings.delivery
    if delivery.channel == "folder":
        return f"{delivery.folder}/"
    return "not sent" if delivery.channel == "none" else f"by {delivery.channel}"


def _first_call(certs: Path, address: str) -> str:
    client = certs / "clients" / "app"
    return (
        f"{Path(os.environ.get('VIRTUAL_ENV', '.venv')) / 'bin' / 'buf'} curl --protocol grpc "
        f"--schema protos --cacert {certs / 'ca.crt'} --cert {client}.crt --key {client}.key "
        '-d \'{"charges": [{"policy": "login", "key": "me"}]}\' '
        f"https://{address}/authsvc.v1.RateLimitService/CheckRateLimit"
    )
