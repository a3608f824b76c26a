"""Owns `authsvc dev`: the whole service on a developer's machine in one command."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from authsvc import log as logs
from authsvc.app.application import Application
from authsvc.cli.output import DEVELOPMENT, fail, run, settings_of
from authsvc.cli.serve import Signals, serve_until_signal
from authsvc.config import Settings
from authsvc.dev.certificates import CertificateError
from authsvc.dev.postgres import EmbeddedPostgres, EmbeddedPostgresError
from authsvc.dev.workspace import Workspace
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

A first call, to paste into another terminal:

  {call}

or take the tour:  [bold]make demo[/]        stop with Ctrl+C; the data stay.
"""


def dev(
    folder: Annotated[
        Path, typer.Option("--state", help="Where certificates, settings and data are kept.")
    ] = DEVELOPMENT,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            envvar="AUTHSVC_DATABASE__URL",
            help="A PostgreSQL to use instead of the embedded one: postgresql://…",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run everything: PostgreSQL, certificates for each role, migrations, the service.

    What it makes stays in the state folder, so it can be stopped, killed and started again.
    """
    workspace = Workspace(folder)
    try:
        workspace.prepare()
        with _database(folder, database) as (url, postgres):
            workspace.set_database(url)
            settings = settings_of(workspace.config, workspace.secrets)
            logs.configure(settings.log)
            run(lambda: _dev(workspace, settings, postgres))
    except (EmbeddedPostgresError, CertificateError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or folder}: {error.strerror or error}")


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
            database="embedded PostgreSQL" if embedded else "the given PostgreSQL",
            certs=certs,
            config=workspace.config,
            messages=_messages(settings),
            call=_first_call(certs, app.grpc_address),
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
