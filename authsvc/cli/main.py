"""Owns the `authsvc` command as a whole: its subcommands and what they share."""

import io
from typing import Annotated

import typer

from authsvc import __version__
from authsvc import log as logs
from authsvc.cli import (
    audit,
    certs,
    config,
    incident,
    keys,
    messages,
    passwords,
    ratelimit,
    sessions,
    users,
)
from authsvc.cli.call import call
from authsvc.cli.demo import demo
from authsvc.cli.dev import dev
from authsvc.cli.groups import Commands
from authsvc.cli.health import health
from authsvc.cli.migrate import migrate
from authsvc.cli.serve import serve
from authsvc.config import LogSettings

app = Commands(
    name="authsvc",
    help="Authentication, sessions and rate limits in one gRPC service.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"authsvc {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Authentication, sessions and rate limits over mutual TLS."""
    # A command prints its own output; what the service would log is not printed.
    logs.configure(LogSettings(level="error"), io.StringIO())


app.command()(dev)
app.command()(serve)
app.command()(migrate)
app.command()(health)
app.command()(call)
app.command()(demo)
app.add_typer(config.app, name="config")
app.add_typer(keys.app, name="keys")
app.add_typer(certs.app, name="certs")
app.add_typer(users.app, name="users")
app.add_typer(sessions.app, name="sessions")
app.add_typer(ratelimit.app, name="ratelimit")
app.add_typer(audit.app, name="audit")
app.add_typer(incident.app, name="incident")
app.add_typer(passwords.app, name="passwords")
app.add_typer(messages.app, name="messages")


def main() -> None:
    """Run the command that the arguments name."""
    app()
