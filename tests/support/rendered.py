"""Messages as channels get them."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from authsvc.core.messages.outbox import Message, MessageKind
from authsvc.core.messages.templates import MessageBody, RenderedMessage
from authsvc.models.ids import UserId
from tests.support.delivering import ADDRESS, CODE

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def rendered(
    address: str = ADDRESS, subject: str = "Your code", user_id: UserId | None = None
) -> RenderedMessage:
    """Return a message with a code; each has an id of its own."""
    message = Message(MessageKind.LOGIN_CODE, address, user_id, CODE, NOW + timedelta(minutes=10))
    text = MessageBody(subject, f"Grüße: {CODE}\n.\nEnd\n", f"<p>Grüße: {CODE}</p>\n")
    return RenderedMessage(uuid4(), message, NOW, text)
