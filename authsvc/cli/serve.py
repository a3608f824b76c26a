"""Owns `authsvc serve`: runs the service until it is told to stop, and takes over new settings."""

import asyncio
import gc
import signal
from pathlib import Path

import structlog

from authsvc import log as logs
from authsvc.app.application import Application
from authsvc.cli.output import ConfigOption, SecretsOption, run, settings_of
from authsvc.config import ConfigError, Settings, load

log = structlog.get_logger("authsvc.serve")

_WATCH_INTERVAL = 5.0


def serve(config: ConfigOption = None, secrets: SecretsOption = None) -> None:
    """Run the service.

    SIGTERM and SIGINT drain it: new calls are refused, those in flight finish, exit code 0.
    Callers and limits are taken over from a changed settings file within five seconds, or at once
    on SIGHUP; certificates reload by themselves. What can't be used is logged and left.
    """
    settings = settings_of(config, secrets)
    logs.configure(settings.log)
    run(lambda: _serve(settings, config, secrets))


async def _serve(settings: Settings, config: Path | None, secrets: Path | None) -> None:
    signals = Signals()
    app = await Application.start(settings)
    log.info("serving", grpc=app.grpc_address, http=app.http_address)
    await serve_until_signal(app, signals, config, secrets)


class Signals:
    """What the process is told while it runs; made first, so that no signal comes too early."""

    def __init__(self) -> None:
        self.stop, self.reload = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)


async def serve_until_signal(
    app: Application, signals: Signals, config: Path | None, secrets: Path | None
) -> None:
    """Serve, reload and, when told to stop, drain."""
    _spare_garbage_collection()
    watcher = asyncio.create_task(_reload_on_change(app, config, secrets, signals.reload))
    try:
        await signals.stop.wait()
    finally:
        log.info("draining")
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        await app.stop()
        log.info("stopped")


def _spare_garbage_collection() -> None:
    """Keep what has been loaded out of the collector's sight, and let it look less often.

    Otherwise a batch of a thousand makes it look at everything there is several times.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _reload_on_change(
    app: Application, config: Path | None, secrets: Path | None, wanted: asyncio.Event
) -> None:
    seen = _stamp(config)
    while True:
        try:
            async with asyncio.timeout(_WATCH_INTERVAL):
                await wanted.wait()
        except TimeoutError:
            if _stamp(config) == seen:
                continue
        wanted.clear()
        seen = _stamp(config)
        try:
            app.reload(load(config, secrets_dir=secrets))
        except ConfigError as error:
            log.error("settings_not_reloaded", problems=error.problems)  # noqa: TRY400 - says it all
        else:
            log.info("settings_reloaded")


def _stamp(config: Path | None) -> tuple[int, int] | None:
    try:
        status = config.stat() if config else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_ino) if status else None
