"""Owns the running of checks: at the same time, each bounded in time, none stopped by another."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import asyncpg

from authsvc.cli.doctor.deployment import Deployment
from authsvc.cli.doctor.findings import Finding, Skip, error, skipped
from authsvc.config import ConfigError
from authsvc.core.lib.sealing import SealError
from authsvc.errors import ServerError, ServiceError
from authsvc.store.postgres.failures import describe
from authsvc.store.postgres.migrator import SchemaError

CheckFunction: TypeAlias = Callable[[Deployment], Awaitable[Sequence[Finding]]]

_AGAIN = "run it again; if this persists, look at the log of the service and of the other side"
_REPORT = "this is a defect of authsvc doctor: report it, and leave this check out with --skip"


@dataclass(frozen=True, slots=True)
class Check:
    """A check: its name, `subject.what`, what it looks at in words, and the function.

    One that `measures` runs when no other does, so that it measures nothing of them.
    """

    name: str
    looks_at: str
    function: CheckFunction
    measures: bool = False

    @property
    def subject(self) -> str:
        """What the check is about: the first part of its name."""
        return self.name.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Result:
    """What a check found: at least one finding."""

    check: Check
    findings: Sequence[Finding]


async def run_checks(
    checks: Sequence[Check],
    deployment: Deployment,
    on_done: Callable[[Check], object] = lambda _check: None,
) -> list[Result]:
    """Run the checks at the same time, then those that measure; return the results in their order.

    `on_done` is called after each.
    """
    results: dict[str, Result] = {}

    async def run(check: Check) -> None:
        results[check.name] = Result(check, await _findings(check, deployment))
        on_done(check)

    async with asyncio.TaskGroup() as group:
        for check in checks:
            if not check.measures:
                group.create_task(run(check))
    for check in checks:
        if check.measures:
            await run(check)
    return [results[check.name] for check in checks]


async def _findings(check: Check, deployment: Deployment) -> Sequence[Finding]:
    seconds = deployment.options.timeout
    try:
        async with asyncio.timeout(seconds) as limit:
            return await check.function(deployment)
    except Exception as failure:  # noqa: BLE001 - one check must not stop the others
        if limit.expired():
            return [error(f"it was not done within {seconds:g} s", f"see --timeout, or {_AGAIN}")]
        return _explained(failure)


def _explained(failure: Exception) -> Sequence[Finding]:
    match failure:
        case Skip():
            found = [skipped(str(failure))]
        case ConfigError():
            found = [error(problem, "correct the settings") for problem in failure.problems]
        case ServerError() | SchemaError() | SealError():
            found = [error(str(failure), _AGAIN)]
        case ServiceError() | asyncpg.PostgresError() | OSError():
            found = [error(describe(failure), _AGAIN)]
        case _:
            # Not its message, which may quote a secret.
            found = [error(f"the check itself failed ({type(failure).__name__})", _REPORT)]
    return found
