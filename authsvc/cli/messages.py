"""Owns `authsvc messages`: lists messages to users without their content, and retries them."""

from dataclasses import asdict
from typing import Annotated
from uuid import UUID

import typer

from authsvc.app.build import open_parts
from authsvc.cli.calls import cli_call
from authsvc.cli.groups import Commands
from authsvc.cli.output import ConfigOption, JsonOption, SecretsOption, emit, fail, run, settings_of
from authsvc.core.messages.stored_messages import NotRetried
from authsvc.models.messages import MessageRecord, MessageState

app = Commands(help="List messages to users and retry abandoned ones.")


@app.command("list")
def list_messages(
    state: Annotated[
        MessageState, typer.Option("--state", help="Which messages to list.")
    ] = MessageState.PENDING,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=10_000, help="How many to list.")
    ] = 100,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """List messages, newest first, without their content and recipient."""
    settings = settings_of(config, secrets)

    async def work() -> list[MessageRecord]:
        async with open_parts(settings) as parts:
            return list(await parts.use.stored_messages.list(state, limit))

    rows = [asdict(record) for record in run(work)]
    emit(rows, as_json=as_json, title=f"Messages, {state}")


@app.command()
def retry(
    message_id: Annotated[UUID, typer.Argument(help="The id of an abandoned message.")],
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Deliver an abandoned message again, unless its code has expired."""
    settings = settings_of(config, secrets)

    async def work() -> None:
        async with open_parts(settings) as parts:
            await parts.use.stored_messages.retry(cli_call(), message_id)

    try:
        run(work)
    except NotRetried as error:
        fail(str(error))
    print(f"{message_id} will be delivered again.")
