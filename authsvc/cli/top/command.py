"""Owns the command `authsvc top`: which replicas it reads, how often, and where it shows them."""

import asyncio
import dataclasses
import json
import math
import ssl
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import aiohttp
import typer
from rich.console import Console
from rich.live import Live

from authsvc.cli.output import (
    ConfigOption,
    JsonOption,
    SecretsOption,
    duration_of,
    fail,
    follow,
    settings_of,
)
from authsvc.cli.scraping import (
    Replica,
    Scrape,
    client_tls,
    metrics_url,
    own_tls,
    own_url,
    replicas,
    scrape,
)
from authsvc.cli.top.snapshot import Observation, Snapshot, snapshot
from authsvc.cli.top.view import view
from authsvc.errors import ServerError
from authsvc.outbound.http import open_session

# Seconds; a replica gives the same answer for one.
_SHORTEST, _LONGEST = 2.0, 3_600.0
_PATIENCE = 5.0
# In a pipe, where nothing is cut off and no line wrapped.
_PIPE_WIDTH, _PIPE_HEIGHT = 120, 1_000


def top(
    *,
    url: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="The HTTP port of replicas, such as http://authsvc-headless:8081; may be repeated."
            " A name stands for one replica for each of its addresses. By default, the address of"
            " the settings, on this machine.",
        ),
    ] = None,
    interval: Annotated[
        str, typer.Option(metavar="DURATION", help="The time between two looks.")
    ] = "2s",
    once: Annotated[
        bool, typer.Option("--once", help="Look twice, print what happened in between, and end.")
    ] = False,
    ca: Annotated[
        Path | None,
        typer.Option(
            help="The authorities of the HTTP port; by default the system's.", show_default=False
        ),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(help="A client's certificate, which http.tls asks for.", show_default=False),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The key of --cert.", show_default=False)] = None,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the replicas do: calls, latencies, logins, refusals, queues, busiest policies.

    All of it comes from /metrics. Rates are those between two looks. A replica that is restarted
    or can't be reached is shown as such, and counted again when it is back. In a pipe, views are
    printed one below the other; with --json, one object a line. Ctrl-C ends it.

    Exit codes: 0; 1 with --once if no replica could be read.
    """
    if (cert is None) != (key is None):
        fail("--cert and --key need each other")
    parsed = duration_of(interval, "--interval")
    seconds = parsed.total_seconds() if parsed else 0.0
    if not _SHORTEST <= seconds <= _LONGEST:
        fail(f"--interval: expected {_SHORTEST:g}s to {_LONGEST / 60:g}m")
    try:
        if url:
            watcher = Watcher([metrics_url(each) for each in url], client_tls(ca, cert, key))
        else:
            settings = settings_of(config, secrets)
            tls = client_tls(ca, cert, key) if ca or cert else own_tls(settings)
            watcher = Watcher([own_url(settings)], tls)
    except ServerError as error:
        fail(str(error))
    follow(lambda: _watch(watcher, seconds, once=once, as_json=as_json))


class Watcher:
    """Looks at all replicas, and remembers the last look at each."""

    def __init__(self, urls: Sequence[str], tls: ssl.SSLContext | None) -> None:
        self._urls = urls
        self._tls = tls
        self._last: dict[str, Scrape] = {}

    async def look(self, http: aiohttp.ClientSession) -> Snapshot:
        """Return what happened since the last look, and how things are now.

        Names are resolved each time, so replicas come and go.
        """
        found = await asyncio.gather(*(self._find(url) for url in self._urls))
        problems = [each for each in found if isinstance(each, Observation)]
        known = {each.name: each for some in found if isinstance(some, list) for each in some}
        seen = await asyncio.gather(*(self._observe(http, each) for each in known.values()))
        # What was not read now has nothing to be compared with next time.
        self._last = {each.name: each.after for each in seen if each.after}
        return snapshot([*seen, *problems])

    @staticmethod
    async def _find(url: str) -> list[Replica] | Observation:
        try:
            return list(await replicas(url))
        except ServerError as error:
            return Observation(url, problem=str(error))

    async def _observe(self, http: aiohttp.ClientSession, replica: Replica) -> Observation:
        try:
            after = await scrape(http, replica, self._tls, _PATIENCE)
        except ServerError as error:
            problem = str(error).removeprefix(f"{replica.name} ")
            return Observation(replica.name, problem=problem)
        return Observation(replica.name, self._last.get(replica.name), after)


async def _watch(watcher: Watcher, seconds: float, *, once: bool, as_json: bool) -> None:
    console = Console(highlight=False)
    async with open_session() as http:
        if once:
            await watcher.look(http)
            await asyncio.sleep(seconds)
            shown = await watcher.look(http)
            _printer(console, as_json=as_json)(shown)
            if all(row.problem for row in shown.replicas):
                raise typer.Exit(1)
            return
        if as_json or not console.is_terminal:
            await _go_on(watcher, http, seconds, _printer(console, as_json=as_json))
        with Live(console=console, screen=True, auto_refresh=False) as live:
            await _go_on(
                watcher,
                http,
                seconds,
                lambda shown: live.update(view(shown, *console.size), refresh=True),
            )


async def _go_on(
    watcher: Watcher,
    http: aiohttp.ClientSession,
    seconds: float,
    show: Callable[[Snapshot], object],
) -> NoReturn:
    while True:
        shown = await watcher.look(http)
        show(shown)
        await asyncio.sleep(seconds)


def _printer(console: Console, *, as_json: bool) -> Callable[[Snapshot], object]:
    if as_json:
        return lambda shown: print(json.dumps(_finite(dataclasses.asdict(shown))), flush=True)
    if console.is_terminal:
        return lambda shown: console.print(view(shown, *console.size))
    pipe = Console(width=_PIPE_WIDTH, highlight=False, file=sys.stdout)

    def show(shown: Snapshot) -> None:
        pipe.print(view(shown, _PIPE_WIDTH, _PIPE_HEIGHT))
        print(flush=True)

    return show


def _finite(value: Any) -> Any:
    """Return the value without numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
