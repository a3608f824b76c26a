"""Owns what tests make and read: users, and the messages that were sent to them."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

_POLL = 0.01
_HEADERS = re.compile(r"To: (?P<to>.*)\nSubject: (?P<subject>.*)\nMessage: .*\n\n(?P<text>(?s:.*))")
# Indented on a line of its own: see outbound/templates/code.txt.
_CODE = re.compile(r"(?m)^    ([0-9]+)$")


@dataclass(frozen=True, slots=True)
class User:
    """A user that a test made, with the password that logs it in."""

    user_id: str
    email: str
    password: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A message that was sent to a user."""

    email: str
    subject: str
    text: str

    @property
    def code(self) -> str:
        """The one-time code, or an empty string."""
        found = _CODE.search(self.text)
        return found[1] if found else ""


def wait_for_messages(folder: Path, email: str, count: int, timeout: float) -> list[Message]:
    """Return the messages to an address, oldest first, once there are at least `count`.

    Raises TimeoutError.
    """
    deadline = time.monotonic() + timeout
    while True:
        messages = [found for found in _read(folder) if found.email == email]
        if len(messages) >= count:
            return messages
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{len(messages)} of {count} messages to {email} in {timeout:g} seconds"
            )
        time.sleep(_POLL)


def _read(folder: Path) -> list[Message]:
    files = [(file.stat().st_mtime_ns, file) for file in folder.glob("*.txt")]
    found = (_HEADERS.match(file.read_text(encoding="utf-8")) for _, file in sorted(files))
    return [Message(match["to"], match["subject"], match["text"]) for match in found if match]
