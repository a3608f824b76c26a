"""Messages as channels get them."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from authsvc.core.messages.outbox import Message, MessageKind
from authsvc.core.messages.templates import Letter, Text
from authsvc.models.ids import UserId
from tests.support.delivering import ADDRESS, CODE

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def letter(
    address: str = ADDRESS, subject: str = "Your code", user_id: UserId | None = None
) -> Letter:
    """Return a message with a code; each has an id of its own."""
    message = Message(MessageKind.LOGIN_CODE, address, user_id, CODE, NOW + timedelta(minutes=10))
    text = Text(subject, f"Grüße: {CODE}\n.\nEnd\n", f"<p>Grüße: {CODE}</p>\n")
    return Letter(uuid4(), message, NOW, text)
