"""Owns `authsvc demo`: a tour of the service in chapters, narrated as it runs."""

import importlib
from pathlib import Path
from typing import Annotated

import grpc
import typer

from authsvc.cli.connection import target_of
from authsvc.cli.demo.tour import Tour, failure, new_client
from authsvc.cli.output import DEVELOPMENT, fail, run

# In the order of the tour: modules of this package, each with a function of the same name. They are
# imported when they run, so that other commands start faster.
_CHAPTERS = (
    "main_job",
    "messages",
    "codes",
    "second_factors",
    "passkeys",
    "oauth",
    "api_keys",
    "service_tokens",
    "session_keys",
    "shop",
    "account",
    "importing",
    "administration",
    "screening",
    "incident",
)  # fmt: skip


def demo(
    chapters: Annotated[
        list[str] | None,
        typer.Argument(help=f"The chapters to run (default: all): {', '.join(_CHAPTERS)}."),
    ] = None,
    folder: Annotated[
        Path, typer.Option("--state", help="The state folder of the running `authsvc dev`.")
    ] = DEVELOPMENT,
    target: Annotated[
        str | None,
        typer.Option(
            help="The address of the service; by default the one in the state folder.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a tour of the features against the running service, and print what happens."""
    unknown = [name for name in chapters or () if name not in _CHAPTERS]
    if unknown:
        fail(f"unknown chapter: {', '.join(unknown)}; the chapters are: {', '.join(_CHAPTERS)}")
    certs = folder / "certs"
    if not (certs / "clients" / "app.crt").exists():
        fail(f"no certificates in {certs}; start the service first with: make run")

    async def walk() -> None:
        tour = Tour(certs, target or target_of(folder))
        try:
            await tour.check_health()
            for name in chapters or _CHAPTERS:
                tour.client = new_client()
                chapter = importlib.import_module(f"authsvc.cli.demo.{name}")
                try:
                    await getattr(chapter, name)(tour)
                except grpc.aio.AioRpcError as error:
                    tour.fail(f"the chapter {name}", failure(error))
        finally:
            await tour.close()
        tour.end("That is authsvc.")

    run(walk)
