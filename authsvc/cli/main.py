"""Owns the `authsvc` command as a whole: its subcommands and what they share."""

import io
from typing import Annotated, ClassVar

import typer

from authsvc import __version__
from authsvc import log as logs
from authsvc.cli.groups import Commands, ImportingGroup
from authsvc.config import LogSettings


class _Root(ImportingGroup):
    modules: ClassVar = {
        "dev": "authsvc.cli.dev",
        "serve": "authsvc.cli.serve",
        "migrate": "authsvc.cli.migrate",
        "upgrade": "authsvc.cli.upgrade",
        "health": "authsvc.cli.health",
        "doctor": "authsvc.cli.doctor.command",
        "top": "authsvc.cli.top.command",
        "call": "authsvc.cli.call",
        "demo": "authsvc.cli.demo",
        "config": "authsvc.cli.config",
        "keys": "authsvc.cli.keys",
        "certs": "authsvc.cli.certs",
        "users": "authsvc.cli.users",
        "sessions": "authsvc.cli.sessions",
        "ratelimit": "authsvc.cli.ratelimit",
        "policies": "authsvc.cli.policies",
        "roles": "authsvc.cli.roles",
        "blocks": "authsvc.cli.blocks",
        "audit": "authsvc.cli.audit",
        "incident": "authsvc.cli.incident",
        "passwords": "authsvc.cli.passwords",
        "size": "authsvc.cli.size",
        "messages": "authsvc.cli.messages",
        "retention": "authsvc.cli.retention",
    }


app = Commands(
    name="authsvc",
    help="Authentication, sessions and rate limits in one gRPC service.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    cls=_Root,
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


def main() -> None:
    """Run the command that the arguments name."""
    app()
