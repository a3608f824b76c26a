"""Restarting a developer's service whenever its code changes.

`python -m authsvc.dev.watch [ARGUMENTS OF authsvc dev …]` runs `authsvc dev` in a process of its
own. Each restart stops that process with SIGTERM, so the service drains and the embedded
PostgreSQL stops properly; the data stay.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from watchfiles import Change, watch

import authsvc
from authsvc.dev import launch

SOURCES = Path(authsvc.__file__).parent
_CODE = {".py", ".sql"}
_TEMPLATES = {".html", ".txt"}
# For calls in flight. Nobody wants to wait 20 seconds, as in production, for a changed line.
_DRAIN = {"AUTHSVC_GRPC__DRAIN_TIMEOUT": "1s"}
_STOP_TIMEOUT = 30.0


def is_source(_change: Change, path: str) -> bool:
    """Tell whether the service has to restart when this file changes."""
    file = Path(path)
    if file.name.startswith("."):
        return False
    return file.suffix in _CODE or (file.suffix in _TEMPLATES and file.parent.name == "templates")


def main(arguments: Sequence[str]) -> None:
    """Run the service, anew after each change, until SIGINT or SIGTERM."""
    end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end.set())
    changes = watch(SOURCES, watch_filter=is_source, stop_event=end)
    while not end.is_set():
        with _service(arguments):
            for changed in islice(changes, 1):
                print(f"changed: {_names(path for _, path in changed)}; restarting", flush=True)


@contextlib.contextmanager
def _service(arguments: Sequence[str]) -> Iterator[None]:
    """Run `authsvc dev`; it stops at the end of the block, or when this process is killed."""
    command = [sys.executable, "-m", "authsvc", "dev", *arguments]
    with subprocess.Popen(  # noqa: S603 - this very program
        [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), "-1", "-1", *command],
        env={**_DRAIN, **os.environ},
        # Ctrl+C in a terminal is for this process, which then stops the service once.
        start_new_session=True,
    ) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()


def _names(paths: Iterable[str]) -> str:
    return ", ".join(sorted(str(Path(path).relative_to(SOURCES.parent)) for path in paths))


if __name__ == "__main__":
    main(sys.argv[1:])
