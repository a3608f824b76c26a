"""The commands for operators to list and retry messages."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from authsvc.app.build import Parts, open_parts
from authsvc.cli.output import settings_of
from authsvc.core.messages.delivery import Deliverer, NotDelivered, Transport
from authsvc.core.messages.outbox import Message, MessageKind
from authsvc.core.messages.templates import RenderedMessage
from authsvc.dev.workspace import Workspace
from tests.cli.conftest import Command
from tests.support.delivering import ADDRESS, CODE, PlainRenderer, TestChannel

_MINUTES = timedelta(minutes=10)


async def _refuse(_: RenderedMessage) -> None:
    raise NotDelivered(error="recipient_refused", permanent=True)


class _Outbox:
    """The outbox of the state folder's service, with a channel that rejects messages."""

    def __init__(self, workspace: Workspace) -> None:
        self._settings = settings_of(workspace.config, workspace.secrets)
        self.channel = TestChannel(before=_refuse)

    def abandon(self, *messages: Message) -> None:
        async def work(parts: Parts) -> None:
            async with parts.database.transaction() as connection:
                for message in messages:
                    await parts.outbox.enqueue(connection, message)
            await self._deliver(parts)

        asyncio.run(self._with_parts(work))

    def deliver(self) -> None:
        asyncio.run(self._with_parts(self._deliver))

    async def _deliver(self, parts: Parts) -> None:
        transport = Transport(self.channel, PlainRenderer())
        await Deliverer(
            database=parts.database,
            keyring=parts.keyring,
            transport=transport,
            settings=self._settings.delivery,
            clock=parts.outbox._clock,
        ).deliver_due()

    async def _with_parts(self, work: Callable[[Parts], Awaitable[None]]) -> None:
        async with open_parts(self._settings) as parts:
            await work(parts)


def _code(lifetime: timedelta = _MINUTES) -> Message:
    expire_time = datetime.now(UTC) + lifetime
    return Message(MessageKind.LOGIN_CODE, ADDRESS, None, CODE, expire_time)


@pytest.mark.slow
def test_abandoned_messages_are_listed_without_content(
    command: Command, workspace: Workspace
) -> None:
    notice = Message(MessageKind.PASSWORD_CHANGED, ADDRESS, None)
    _Outbox(workspace).abandon(_code(), notice)
    for arguments in (["--json"], []):
        result = command("messages", "list", "--state", "abandoned", *arguments)
        assert result.exit_code == 0
        assert all(word in result.output for word in ("login_code", "recipient_refused"))
        assert not any(private in result.output for private in (ADDRESS, CODE))
    listed = json.loads(command("messages", "list", "--state", "abandoned", "--json").output)
    assert [row["kind"] for row in listed] == ["password_changed", "login_code"]
    assert {row["state"] for row in listed} == {"abandoned"}
    assert json.loads(command("messages", "list", "--json").output) == []
    limited = command("messages", "list", "--state", "abandoned", "--json", "--limit", "1")
    assert len(json.loads(limited.output)) == 1


@pytest.mark.slow
def test_abandoned_message_can_be_retried(
    command: Command, workspace: Workspace, database_dsn: str
) -> None:
    outbox = _Outbox(workspace)
    outbox.abandon(_code())
    (row,) = json.loads(command("messages", "list", "--state", "abandoned", "--json").output)
    result = command("messages", "retry", row["message_id"])
    assert (result.exit_code, result.output) == (
        0,
        f"{row['message_id']} will be delivered again.\n",
    )

    outbox.channel.before = None
    outbox.deliver()
    (rendered,) = outbox.channel.sent
    assert str(rendered.message_id) == row["message_id"]
    assert (rendered.message.address, rendered.message.code) == (ADDRESS, CODE)
    assert "message.retry" in asyncio.run(_audit_types(database_dsn))


@pytest.mark.slow
def test_retry_explains_why_it_is_impossible(command: Command, workspace: Workspace) -> None:
    unknown = command("messages", "retry", str(uuid4()))
    assert (unknown.exit_code, unknown.output) == (1, "error: No abandoned message has this id.\n")
    _Outbox(workspace).abandon(_code(timedelta(seconds=-1)))
    (row,) = json.loads(command("messages", "list", "--state", "abandoned", "--json").output)
    assert row["last_error"] == "expired"
    expired = command("messages", "retry", row["message_id"])
    assert expired.exit_code == 1
    assert "code has expired" in expired.output


async def _audit_types(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        return [row["type"] for row in await connection.fetch("SELECT type FROM audit_events")]
    finally:
        await connection.close()


def test_development_messages_go_to_state_folder(workspace: Workspace) -> None:
    workspace.set_database("postgresql://localhost/none")
    delivery = settings_of(workspace.config, workspace.secrets).delivery
    assert (delivery.channel, delivery.folder) == ("folder", workspace.folder / "messages")


def test_config_check_detects_broken_template(command: Command, workspace: Workspace) -> None:
    templates = workspace.folder / "templates"
    templates.mkdir()
    (templates / "login_code.txt").write_text("Subject: Hello\n\nno code")
    text = workspace.config.read_text()
    workspace.config.write_text(
        text.replace("[delivery]", f"[delivery]\ntemplates = {json.dumps(str(templates))}")
    )
    result = command("config", "check")
    assert result.exit_code == 1
    assert result.output == (
        "error: delivery.templates: login_code.txt: it does not contain the code\n"
    )
