"""Owns the development channel: messages as files in a folder, and in the log."""

import asyncio
import os
import re
import secrets
from datetime import timedelta
from pathlib import Path

import structlog

from authsvc.core.messages.delivery import NotDelivered
from authsvc.core.messages.templates import RenderedMessage

log = structlog.get_logger(__name__)

_UNSAFE = re.compile(r"[^A-Za-z0-9.+_-]+")


class FolderChannel:
    """Writes each message to a file of its own, named by time, kind and address."""

    name = "folder"
    limit = timedelta(seconds=10)

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def send(self, rendered: RenderedMessage) -> None:
        """Write the file and log its text, so that a developer finds the code.

        Raises:
            NotDelivered: The file can't be written.
        """
        path = self._folder / file_name(rendered)
        try:
            await asyncio.to_thread(self._write, path, rendered)
        except OSError as error:
            raise NotDelivered(error="folder") from error
        log.info(
            "message_in_folder",
            kind=rendered.message.kind.value,
            file=str(path),
            subject=rendered.content.subject,
            text=rendered.content.text,
        )

    async def check(self) -> None:
        """Raise NotDelivered unless files can be written to the folder, which need not exist."""
        folder = self._folder.absolute()
        nearest = next(part for part in (folder, *folder.parents) if part.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise NotDelivered(error="folder")

    async def close(self) -> None:
        """Do nothing, as nothing is open."""

    def _write(self, path: Path, rendered: RenderedMessage) -> None:
        """Write a file that only its owner may read, atomically."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = path.with_name(f".{secrets.token_hex(8)}")
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(
                f"To: {rendered.message.address}\nSubject: {rendered.content.subject}\n"
                f"Message: {rendered.message_id}\n\n{rendered.content.text}"
            )
        scratch.replace(path)


def file_name(rendered: RenderedMessage) -> str:
    """Return the name of a message's file, which is the same for each delivery of it."""
    address = _UNSAFE.sub("_", rendered.message.address.replace("@", "_at_"))[:80]
    return (
        f"{rendered.create_time:%Y%m%dT%H%M%SZ}-{rendered.message.kind}-{address}"
        f"-{rendered.message_id.hex[-8:]}.txt"
    )
