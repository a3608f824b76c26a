"""Owns `authsvc demo`: a tour of the service, chapter by chapter, told as it happens."""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from authsvc.cli.demo.tour import Tour, new_client
from authsvc.cli.output import DEVELOPMENT, fail, run

# In the order of the tour: modules of this package, each with a function of its own name. They are
# imported when they are told, as other commands start faster without them.
_CHAPTERS = (
    "main_job",
    "messages",
    "codes",
    "second_factors",
    "passkeys",
    "oauth",
    "api_keys",
    "service_tokens",
    "account",
    "importing",
)  # fmt: skip


def demo(
    chapters: Annotated[
        list[str] | None,
        typer.Argument(help=f"Which chapters; all if none is named: {', '.join(_CHAPTERS)}."),
    ] = None,
    folder: Annotated[
        Path, typer.Option("--state", help="The state folder of the running `authsvc dev`.")
    ] = DEVELOPMENT,
    target: Annotated[str, typer.Option(help="Where the service listens.")] = "127.0.0.1:8443",
) -> None:
    """Walk through what the service does, against the running one, and print what happens."""
    unknown = [name for name in chapters or () if name not in _CHAPTERS]
    if unknown:
        fail(f"no such chapter: {', '.join(unknown)}; there are: {', '.join(_CHAPTERS)}")
    certs = folder / "certs"
    if not (certs / "clients" / "app.crt").exists():
        fail(f"no certificates in {certs}; start the service first: make run")

    async def walk() -> None:
        tour = Tour(certs, target)
        try:
            await tour.arrive()
            for name in chapters or _CHAPTERS:
                tour.client = new_client()
                chapter = importlib.import_module(f"authsvc.cli.demo.{name}")
                await getattr(chapter, name)(tour)
        finally:
            await tour.close()
        tour.end("That is authsvc.")

    run(walk)
