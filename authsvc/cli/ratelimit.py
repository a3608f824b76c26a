"""Owns `authsvc ratelimit`: shows, charges and resets the rate limits of keys."""

from datetime import timedelta
from typing import Annotated, Any

import typer

from authsvc.cli.groups import Commands
from authsvc.cli.output import ConfigOption, JsonOption, SecretsOption, emit, emit_one, fail
from authsvc.cli.work import with_use_cases
from authsvc.core.limits.limiter import RateLimiter
from authsvc.core.use_cases import UseCases
from authsvc.errors import FieldInvalid
from authsvc.models.limits import Charge, Policy, Verdict
from authsvc.rpc.rate_limit.messages import MAX_COST, limit_key

_REJECTED = 3

app = Commands(help="Show, charge and reset the rate limits of keys.")

PolicyArgument = Annotated[str, typer.Argument(help="The policy, such as api.")]
KeyArgument = Annotated[
    str, typer.Argument(help="The key: a user id, an address, whatever callers charge.")
]


@app.command()
def show(
    policy: Annotated[
        str | None, typer.Argument(help="The policy, such as api.", show_default=False)
    ] = None,
    key: Annotated[
        str | None, typer.Argument(help="The key whose state to show.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Show the state of a key under a policy; without a key, show the policies.

    Nothing is charged. The limit is the most that can be available at once: the policy's requests
    within its window or, if that is lower, its burst within a second.
    """
    if policy is not None and key is not None:
        wanted, charged = policy, _key(key)
        verdict = with_use_cases(
            config, secrets, lambda use: _limiter(use, wanted).get(wanted, charged)
        )
        emit_one(_verdict(verdict), as_json=as_json)
        return

    async def work(use: UseCases) -> list[Policy]:
        limiter = use.rate_limiter if policy is None else _limiter(use, policy)
        return [each for each in limiter.policies() if policy in {None, each.name}]

    rows = [_policy(each) for each in with_use_cases(config, secrets, work)]
    emit(rows, as_json=as_json, title="Rate-limit policies")


@app.command()
def check(
    policy: PolicyArgument,
    key: KeyArgument,
    cost: Annotated[
        int, typer.Option("--cost", min=1, max=MAX_COST, help="The amount to take.")
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide, but take nothing.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Charge a key as a caller would; exit code 0 if that is allowed, 3 if it is rejected."""
    charge = Charge(policy, _key(key), cost)
    result = with_use_cases(
        config, secrets, lambda use: _limiter(use, policy).check([charge], dry_run=dry_run)
    )
    emit_one(_verdict(result.verdicts[0]), as_json=as_json)
    if not result.allowed:
        raise typer.Exit(_REJECTED)


@app.command()
def reset(
    policy: PolicyArgument,
    key: KeyArgument,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Reset a key as if it had never been charged; running replicas notice within a second."""
    charged = _key(key)
    with_use_cases(config, secrets, lambda use: _limiter(use, policy).reset(policy, charged))
    print(f"{key} has its full limit of {policy} again.")


def _limiter(use: UseCases, policy: str) -> RateLimiter:
    """Return the rate limiter, or end the command if it has no such policy."""
    known = [each.name for each in use.rate_limiter.policies()]
    if policy not in known:
        fail(f"no rate-limit policy is called {policy}; the policies are {', '.join(known)}")
    return use.rate_limiter


def _key(text: str) -> str:
    try:
        return limit_key(text, "key")
    except FieldInvalid as error:
        fail(error.message)


def _verdict(verdict: Verdict) -> dict[str, Any]:
    wait = verdict.retry_after
    return {
        "policy": verdict.policy,
        "key": verdict.key,
        "allowed": verdict.allowed,
        "limit": verdict.limit,
        "bound": "burst" if verdict.is_burst else "requests",
        "remaining": verdict.remaining,
        "retry_after": None if wait is None else timedelta(seconds=wait),
        "reset_after": timedelta(seconds=verdict.reset_after),
    }


def _policy(policy: Policy) -> dict[str, Any]:
    return {
        "policy": policy.name,
        "requests": policy.requests,
        "window": policy.window,
        "burst": policy.burst or None,
        "algorithm": policy.algorithm,
        "durable": policy.durable,
    }
