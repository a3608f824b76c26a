"""Owns the development channel: messages as files in a folder, and in the log."""

import asyncio
import os
import re
import secrets
from datetime import timedelta
from pathlib import Path

import structlog

from authsvc.core.messages.delivery import NotDelivered
from authsvc.core.messages.templates import Letter

logger = structlog.get_logger(__name__)

_UNSAFE = re.compile(r"[^A-Za-z0-9.+_-]+")


class FolderChannel:
    """Writes each message into a file of its own, whose name tells when, what and to whom."""

    name = "folder"
    limit = timedelta(seconds=10)

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def send(self, letter: Letter) -> None:
        """Write the file and log what it says: here a developer has to find the code.

        Raises:
            NotDelivered: The file can't be written.
        """
        path = self._folder / file_name(letter)
        try:
            await asyncio.to_thread(self._write, path, letter)
        except OSError as error:
            raise NotDelivered("folder") from error
        logger.info(
            "message_in_folder",
            kind=letter.message.kind.value,
            file=str(path),
            subject=letter.content.subject,
            text=letter.content.text,
        )

    async def close(self) -> None:
        """Do nothing: nothing is open."""

    def _write(self, path: Path, letter: Letter) -> None:
        """Write a file that only its owner may read, in one step and never half."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = path.with_name(f".{secrets.token_hex(8)}")
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(
                f"To: {letter.message.address}\nSubject: {letter.content.subject}\n"
                f"Message: {letter.message_id}\n\n{letter.content.text}"
            )
        scratch.replace(path)


def file_name(letter: Letter) -> str:
    """Return the name of a message's file, the same however often it is delivered."""
    address = _UNSAFE.sub("_", letter.message.address.replace("@", "_at_"))[:80]
    return (
        f"{letter.create_time:%Y%m%dT%H%M%SZ}-{letter.message.kind}-{address}"
        f"-{letter.message_id.hex[-8:]}.txt"
    )
