"""Owns `authsvc blocks`: blocks addresses and networks, lifts blocks, and lists them."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from authsvc.cli.calls import cli_call
from authsvc.cli.groups import Commands
from authsvc.cli.output import (
    ConfigOption,
    JsonOption,
    LimitOption,
    SecretsOption,
    duration_of,
    emit,
    emit_one,
    emit_page,
    fail,
)
from authsvc.cli.work import with_use_cases
from authsvc.core.use_cases import UseCases
from authsvc.errors import FieldInvalid
from authsvc.models.ip_blocks import BlockRequest, IpBlock
from authsvc.rpc import convert
from authsvc.rpc.admin.ip_blocks import check_duration, line

app = Commands(help="Block addresses and networks, lift blocks, and list them.")

NetworkArgument = Annotated[
    str, typer.Argument(help="An IP address, or a network such as 192.0.2.0/24 or 2001:db8::/64.")
]


@app.command()
def add(
    target: NetworkArgument,
    duration: Annotated[
        str | None,
        typer.Option(
            "--for", help="How long, such as 1h or 30d; without it, until the block is lifted."
        ),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, for other operators.")] = "",
    confirm_wide: Annotated[
        bool,
        typer.Option(
            "--confirm-wide", help="Confirm a network wider than a /8 of IPv4 or a /16 of IPv6."
        ),
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Block an address or a network; every replica refuses its requests within a second.

    It replaces an earlier block of the same address or network. Sessions go on; `sessions revoke`
    ends them.
    """
    lasts = duration_of(duration, "--for")
    try:
        request = BlockRequest(
            network=_network(target),
            reason=line(reason, "--reason"),
            duration=None if lasts is None else check_duration(lasts, "--for"),
            confirm_wide=confirm_wide,
        )
    except FieldInvalid as error:
        fail(error.message)

    async def block_it(use: UseCases) -> IpBlock:
        try:
            return await use.ip_blocking.block(cli_call(), request)
        except FieldInvalid as error:
            fail(error.message.replace("confirm_wide", "--confirm-wide"))

    block = with_use_cases(config, secrets, block_it)
    emit_one(_row(block), as_json=as_json)


@app.command()
def remove(
    target: NetworkArgument,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Lift the block of exactly this address or network, and forget its violations.

    It is no error if there is none. Blocks of networks that contain it remain, and are shown.
    """
    part = _network(target)
    unblocked = with_use_cases(
        config, secrets, lambda use: use.ip_blocking.unblock(cli_call(), part)
    )
    remaining = [_row(block) for block in unblocked.remaining]
    if as_json:
        emit_one({"was_blocked": unblocked.was_blocked, "remaining": remaining}, as_json=True)
        return
    print(f"{part} {'is unblocked' if unblocked.was_blocked else 'had no block'}.")
    if remaining:
        emit(remaining, as_json=False, title="These blocks contain it")


@app.command("list")
def list_blocks(
    covering: Annotated[
        str | None,
        typer.Option("--covering", help="Only the blocks that apply to this address or network."),
    ] = None,
    limit: LimitOption = 50,
    after: Annotated[
        str | None, typer.Option("--after", help="List the blocks that follow this network.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """List the blocks that are in force, ordered by network."""
    part = None if covering is None else _network(covering)
    last = None if after is None else _network(after)

    async def work(use: UseCases) -> Sequence[IpBlock]:
        if part is not None:
            return await use.ip_blocking.covering(part)
        return await use.ip_blocking.list_after(last, limit + 1)

    rows = [_row(block) for block in with_use_cases(config, secrets, work)]
    if part is not None:
        emit(rows, as_json=as_json, title="Blocks")
    else:
        emit_page(rows, limit, as_json=as_json, title="Blocks", key="network")


def _network(text: str) -> str:
    try:
        return convert.network(text, "network")
    except FieldInvalid as error:
        fail(f"{text}: {error.violations[0].description}")


def _row(block: IpBlock) -> dict[str, Any]:
    return {
        "network": block.network,
        "since": block.create_time,
        "until": block.expire_time,
        "reason": block.reason,
        "blocked_by": block.blocked_by,
        "automatic": block.automatic,
    }
