"""Owns the folder and the PostgreSQL of a test service, which start while the service is imported.

So it imports little itself.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Self

from authsvc.dev.binaries import EmbeddedPostgresError
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.dev.scratch import ScratchFolder


class ScratchDatabase:
    """A PostgreSQL in a folder that is thrown away; a context manager that ends both."""

    def __init__(self) -> None:
        self._scratch = ScratchFolder()
        self._postgres = EmbeddedPostgres(self._scratch.path, durable=False)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="authsvc-database")
        self._started = self._thread.submit(self._postgres.start)

    @property
    def folder(self) -> Path:
        """The folder, for all state of the service."""
        return self._scratch.path

    def wait(self) -> EmbeddedPostgres:
        """Return the server once it accepts connections; raises EmbeddedPostgresError."""
        self._started.result()
        return self._postgres

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(EmbeddedPostgresError):
            # A server must not be stopped while it starts. If it failed, `wait` has said so.
            self._started.result()
        self._thread.shutdown()
        self._postgres.stop()
        self._scratch.close()
