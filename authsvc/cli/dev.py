"""Owns `authsvc dev`: runs the whole service on a developer's machine in one command."""

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from authsvc import log as logs
from authsvc.app.application import Application
from authsvc.cli.output import DEVELOPMENT, fail, run, settings_of
from authsvc.cli.port_file import PortFile
from authsvc.cli.serve import Signals, serve_until_signal
from authsvc.config import Settings
from authsvc.config.types import HttpListen
from authsvc.dev import ports
from authsvc.dev.certificates import CertificateError
from authsvc.dev.locks import service_lock
from authsvc.dev.postgres import EmbeddedPostgres, EmbeddedPostgresError
from authsvc.dev.scratch import ScratchFolder
from authsvc.dev.workspace import Workspace, WorkspaceError
from authsvc.store.postgres import migrator

# How often an ephemeral service looks whether its parent process still runs, in seconds.
_PARENT_INTERVAL = 0.5
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

or take the tour:  [bold]make demo[/]        Ctrl+C stops the service and {end}.
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
    ephemeral: Annotated[
        bool,
        typer.Option(
            "--ephemeral",
            help="Use a folder and free ports of its own, end with the process that started it, "
            "and leave nothing behind: for tests.",
        ),
    ] = False,
    port_file: Annotated[
        Path | None,
        typer.Option(
            "--port-file",
            metavar="FILE",
            help="Once it serves, write a JSON file that says where, with which certificates.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run everything: PostgreSQL, certificates for each role, migrations and the service.

    All state is kept in the state folder, so the command can be stopped, killed and restarted.
    """
    # Before anything takes time, as it may end meanwhile.
    parent = os.getppid() if ephemeral else None
    given = {"grpc": grpc, "http": http}
    _check_addresses(given)
    try:
        announced = PortFile(port_file) if port_file else None
        if not ephemeral:
            _run(Workspace(folder), given, database, announced)
            return
        if folder != DEVELOPMENT or database:
            fail("--ephemeral has a state folder and a database of its own: leave out the others")
        with ExitStack() as stack:
            scratch = stack.enter_context(ScratchFolder())
            for name, address in given.items():
                if address is None:
                    holder, given[name] = ports.reserve()
                    stack.enter_context(holder)
            _run(Workspace(scratch), given, None, announced, parent=parent)
    except (EmbeddedPostgresError, CertificateError, WorkspaceError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or folder}: {error.strerror or error}")


def _run(
    workspace: Workspace,
    given: Mapping[str, str | None],
    database: str | None,
    announced: PortFile | None,
    *,
    parent: int | None = None,
) -> None:
    taken = ports.problems(ports.addresses(workspace.folder, given))
    if taken:
        fail(*taken)
    # Before anything is written: a second service, which is refused, must not move the first one.
    with service_lock(workspace.folder):
        workspace.prepare()
        workspace.set_addresses(given)
        with _database(workspace.folder, database, durable=parent is None) as (url, postgres):
            workspace.set_database(url)
            settings = settings_of(workspace.config, workspace.secrets)
            logs.configure(settings.log)
            run(lambda: _dev(workspace, settings, postgres, announced=announced, parent=parent))


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
def _database(
    folder: Path, given: str | None, *, durable: bool
) -> Iterator[tuple[str, EmbeddedPostgres | None]]:
    if given:
        yield given, None
        return
    postgres = EmbeddedPostgres(folder, durable=durable)
    postgres.start()
    try:
        yield postgres.dsn(), postgres
    finally:
        postgres.stop()


async def _dev(
    workspace: Workspace,
    settings: Settings,
    postgres: EmbeddedPostgres | None,
    *,
    announced: PortFile | None,
    parent: int | None,
) -> None:
    signals = Signals()
    # Nobody else serves on a developer's database, however old it is.
    await migrator.migrate(settings.database.url.get_secret_value(), skip_versions=True)
    app = await Application.start(settings)
    helpers = [asyncio.create_task(postgres.supervise())] if postgres else []
    if parent is not None:
        helpers.append(asyncio.create_task(_end_with(parent, signals.stop)))
    _print_banner(
        workspace, settings, app, embedded=postgres is not None, ephemeral=parent is not None
    )
    try:
        if announced:
            announced.write(workspace, app)
        await serve_until_signal(app, signals, workspace.config, workspace.secrets)
    finally:
        if announced:
            announced.remove()
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)


async def _end_with(parent: int, stop: asyncio.Event) -> None:
    """Set `stop` when the process that started this one has ended."""
    while os.getppid() == parent:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(_PARENT_INTERVAL)
    stop.set()


def _print_banner(
    workspace: Workspace, settings: Settings, app: Application, *, embedded: bool, ephemeral: bool
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
            end="removes all this" if ephemeral else "keeps its data",
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
