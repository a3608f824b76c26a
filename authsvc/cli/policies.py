"""Owns `authsvc policies`: defines rate-limit policies and overrides at run time."""

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, TypeVar

import typer

from authsvc.cli.calls import cli_call
from authsvc.cli.confirming import YesOption, confirm
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
from authsvc.models.definitions import DefinedIn
from authsvc.models.limits import Algorithm, Effect, Override, Policy
from authsvc.rpc.rate_limit.messages import amount, limit_key, own_policy_name, window_of

_MAX_NOTE = 256

Result = TypeVar("Result")

app = Commands(help="Define rate-limit policies, and what holds for single keys.")

NameArgument = Annotated[str, typer.Argument(help="The policy, such as api.")]
KeyArgument = Annotated[str, typer.Argument(help="The key: a user id, an address.")]
WindowOption = Annotated[
    str | None, typer.Option("--window", help="The length of the window, such as 1h30m.")
]
BurstOption = Annotated[
    int, typer.Option("--burst", help="The most in any one second; 0 for no such limit.")
]


@app.command("list")
def list_policies(
    as_json: JsonOption = False, config: ConfigOption = None, secrets: SecretsOption = None
) -> None:
    """List the policies, and where each is defined: in the settings, or at run time."""

    async def work(use: UseCases) -> list[Policy]:
        return use.rate_limiter.policies()

    rows = [_policy(policy) for policy in with_use_cases(config, secrets, work)]
    emit(rows, as_json=as_json, title="Rate-limit policies")


@app.command()
def put(
    name: NameArgument,
    *,
    requests: Annotated[
        int | None,
        typer.Option("--requests", help="How much may be used in a window; 0 for nothing."),
    ] = None,
    window: WindowOption = None,
    burst: BurstOption = 0,
    algorithm: Annotated[
        Algorithm, typer.Option("--algorithm", help="How it counts.")
    ] = Algorithm.TOKEN_BUCKET,
    durable: Annotated[
        bool, typer.Option("--durable", help="Keep the counts over a crash of PostgreSQL.")
    ] = False,
    unlimited: Annotated[
        bool, typer.Option("--unlimited", help="Allow everything, whatever the numbers.")
    ] = False,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Count and report, but refuse nothing.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Create a policy, or replace the one of this name; what keys have used is kept.

    Running replicas use it within a second. A policy of the settings can only be changed there.
    """
    if requests is None and not unlimited:
        # A put replaces all of a policy: what was only to be changed would refuse everything.
        fail("give --requests, which is 0 for a policy that allows nothing, or --unlimited")
    count = requests or 0
    policy = _parsed(
        lambda: Policy(
            name=own_policy_name(name, "NAME"),
            requests=amount(count, "--requests"),
            window=window_of(
                duration_of(window, "--window"),
                "--window",
                is_counted=count > 0 and not unlimited,
            ),
            burst=amount(burst, "--burst"),
            algorithm=algorithm,
            durable=durable,
            unlimited=unlimited,
            shadow=shadow,
            defined_in=DefinedIn.RUN_TIME,
        )
    )
    with_use_cases(config, secrets, lambda use: use.policies.put(cli_call(), policy))
    emit_one(_policy(policy), as_json=as_json)


@app.command()
def delete(
    name: NameArgument,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Delete a policy and its overrides; checks that name it then fail."""
    parsed = _parsed(lambda: own_policy_name(name, "NAME"))
    confirm(f"Delete the policy {parsed} and its overrides?", yes=yes)
    with_use_cases(config, secrets, lambda use: use.policies.delete(cli_call(), parsed))
    if as_json:
        emit_one({"policy": parsed, "deleted": True}, as_json=True)
    else:
        print(f"{parsed} is deleted.")


@app.command()
def override(
    name: NameArgument,
    key: KeyArgument,
    *,
    allow: Annotated[bool, typer.Option("--allow", help="Allow everything.")] = False,
    deny: Annotated[bool, typer.Option("--deny", help="Allow nothing.")] = False,
    requests: Annotated[
        int | None, typer.Option("--requests", help="How much this key may use in a window.")
    ] = None,
    window: WindowOption = None,
    burst: BurstOption = 0,
    duration: Annotated[
        str | None,
        typer.Option("--for", help="How long it holds, such as 2h; otherwise until it is deleted."),
    ] = None,
    note: Annotated[str, typer.Option("--note", help="Why.")] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Let something else hold for one key: --allow, --deny, or other numbers with --requests.

    It replaces an earlier override of the key. Running replicas use it within a second.
    """
    if allow + deny + (requests is not None) != 1:
        fail("give one of --allow, --deny and --requests")
    if requests is None and (window is not None or burst):
        fail("--window and --burst go with --requests")
    if len(note.encode()) > _MAX_NOTE:
        fail(f"--note must be at most {_MAX_NOTE} bytes")
    lasts = duration_of(duration, "--for")
    if lasts is not None and lasts <= timedelta(0):
        fail("--for must be longer than nothing")

    async def work(use: UseCases) -> Override:
        wanted = _parsed(
            lambda: Override(
                policy=own_policy_name(name, "NAME"),
                key=limit_key(key, "KEY"),
                effect=Effect.ALLOW if allow else Effect.DENY if deny else Effect.NUMBERS,
                requests=amount(requests, "--requests", least=1) if requests is not None else 0,
                window=None
                if window is None
                else window_of(duration_of(window, "--window"), "--window", is_counted=True),
                burst=amount(burst, "--burst"),
                expire_time=None if lasts is None else use.policies.now() + lasts,
                note=note,
            )
        )
        await use.policies.put_override(cli_call(), wanted)
        return wanted

    emit_one(_override(with_use_cases(config, secrets, work)), as_json=as_json)


@app.command()
def overrides(
    name: Annotated[
        str | None, typer.Argument(help="The policy whose overrides to list.", show_default=False)
    ] = None,
    limit: LimitOption = 50,
    after: Annotated[
        str, typer.Option("--after", help="With a policy: list those that follow this key.")
    ] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """List the overrides in force, by policy and key."""
    if after and name is None:
        fail("--after goes with a policy")
    start = (name or "", after)
    found = with_use_cases(
        config, secrets, lambda use: use.policies.list_overrides(name, start, limit + 1)
    )
    rows = [_override(each) for each in found]
    if name is not None:
        emit_page(rows, limit, as_json=as_json, title="Overrides", key="key")
        return
    emit(rows[:limit], as_json=as_json, title="Overrides")
    if len(rows) > limit:
        print("There are more: name a policy", file=sys.stderr)


@app.command("remove-override")
def remove_override(
    name: NameArgument,
    key: KeyArgument,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Delete a key's override: the policy's numbers hold for it again."""
    with_use_cases(config, secrets, lambda use: use.policies.delete_override(cli_call(), name, key))
    if as_json:
        emit_one({"policy": name, "key": key, "deleted": True}, as_json=True)
    else:
        print(f"{name} holds for {key} again.")


def _parsed(parse: Callable[[], Result]) -> Result:
    try:
        return parse()
    except FieldInvalid as error:
        fail(error.message)


def _policy(policy: Policy) -> dict[str, Any]:
    return {
        "policy": policy.name,
        "requests": policy.requests,
        "window": policy.window,
        "burst": policy.burst or None,
        "algorithm": policy.algorithm,
        "durable": policy.durable,
        "unlimited": policy.unlimited,
        "shadow": policy.shadow,
        "defined_in": policy.defined_in,
    }


def _override(override: Override) -> dict[str, Any]:
    return {
        "policy": override.policy,
        "key": override.key,
        "effect": override.effect,
        "requests": override.requests or None,
        "window": override.window,
        "burst": override.burst or None,
        "expires": override.expire_time,
        "note": override.note or None,
    }
