"""Owns `authsvc serve`: runs the service until a signal stops it, and reloads settings."""

import asyncio
import gc
import signal
from pathlib import Path

import structlog

from authsvc import log as logs
from authsvc.app.application import Application
from authsvc.cli.output import ConfigOption, SecretsOption, loaded_from, run, sources_of
from authsvc.config import ConfigError, Settings, load

log = structlog.get_logger("authsvc.serve")

_WATCH_INTERVAL = 5.0
_COLLECT_INTERVAL = 600.0


def serve(config: ConfigOption = None, secrets: SecretsOption = None) -> None:
    """Run the service.

    SIGTERM and SIGINT drain it: new calls are rejected, calls in flight finish, and it exits with
    code 0. Callers and limits are reloaded within five seconds of a change to the settings file, or
    at once on SIGHUP; certificates reload by themselves. The log says which changed keys took
    effect and which, such as secrets, need a restart. Invalid settings are logged and not applied.
    """
    config, secrets = sources_of(config, secrets)
    loaded = loaded_from(config, secrets)
    logs.configure(loaded.settings.log)
    for note in loaded.notes:
        log.warning("settings_note", note=note)
    run(lambda: _serve(loaded.settings, config, secrets))


async def _serve(settings: Settings, config: Path | None, secrets: Path | None) -> None:
    signals = Signals()
    app = await Application.start(settings)
    log.info(
        "serving",
        grpc=app.grpc_address,
        http=app.http_address,
        settings=str(config) if config else "environment",
    )
    await serve_until_signal(app, signals, config, secrets)


class Signals:
    """The signals that the process received; created first, so that no signal comes too early."""

    def __init__(self) -> None:
        self.stop, self.reload = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)


async def serve_until_signal(
    app: Application, signals: Signals, config: Path | None, secrets: Path | None
) -> None:
    """Serve, reload and, when a signal says stop, drain."""
    _tune_garbage_collection()
    tasks = [
        asyncio.create_task(_reload_on_change(app, config, secrets, signals.reload)),
        asyncio.create_task(_collect_garbage()),
    ]
    try:
        await signals.stop.wait()
        app.note_planned_stop()
    finally:
        log.info("draining")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await app.stop()
        log.info("stopped")


def _tune_garbage_collection() -> None:
    """Exempt everything loaded so far from garbage collection, and collect only young objects.

    A full collection scans all objects while no call makes progress, and callers who send batches
    could bring it about as often as they like. So it comes by the clock: see `_collect_garbage`.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_000, 5, 1_000_000)


async def _collect_garbage() -> None:
    """Collect garbage that has grown old, every ten minutes, and exempt what is left."""
    while True:
        await asyncio.sleep(_COLLECT_INTERVAL)
        gc.collect()
        gc.freeze()


async def _reload_on_change(
    app: Application, config: Path | None, secrets: Path | None, reload: asyncio.Event
) -> None:
    seen = _stamps(config, secrets)
    while True:
        try:
            async with asyncio.timeout(_WATCH_INTERVAL):
                await reload.wait()
        except TimeoutError:
            if _stamps(config, secrets) == seen:
                continue
        reload.clear()
        seen = _stamps(config, secrets)
        try:
            reloaded = app.reload(load(config, secrets_dir=secrets))
        except ConfigError as error:
            app.note_failed_reload()
            log.error("settings_not_reloaded", problems=error.problems)  # noqa: TRY400 - no traceback
        except Exception as error:  # noqa: BLE001 - otherwise this was the last reload
            app.note_failed_reload()
            log.error("settings_not_reloaded", problems=[type(error).__name__])  # noqa: TRY400 - it may quote a secret
        else:
            log.info(
                "settings_reloaded",
                applied=reloaded.applied,
                restart_needed=reloaded.restart_needed,
            )


def _stamps(config: Path | None, secrets: Path | None) -> list[tuple[int, int] | None]:
    """Return what differs once the settings file or a file of the secrets folder has changed."""
    try:
        files = sorted(secrets.iterdir()) if secrets else []
    except OSError:
        files = []
    return [_stamp(file) for file in (config, *files)]


def _stamp(config: Path | None) -> tuple[int, int] | None:
    try:
        status = config.stat() if config else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_ino) if status else None
