"""Checks run at the same time, each within its time, and none stops another."""

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from authsvc.cli.doctor.deployment import Deployment, Options
from authsvc.cli.doctor.findings import Finding, Level, Skip, ok
from authsvc.cli.doctor.running import Check, CheckFunction, run_checks
from authsvc.config import ConfigError, Settings
from authsvc.errors import ServerError, StoreUnavailable


def raising(failure: BaseException) -> CheckFunction:
    async def check(_deployment: Deployment) -> Sequence[Finding]:
        raise failure

    return check


async def fine(_deployment: Deployment) -> Sequence[Finding]:
    return [ok("fine")]


async def hang(_deployment: Deployment) -> Sequence[Finding]:
    await asyncio.Event().wait()
    raise AssertionError


async def test_failing_and_hanging_checks_leave_the_others_alone(settings: Settings) -> None:
    checks = [
        Check("a.one", "", raising(ZeroDivisionError("secret"))),
        Check("b.two", "", hang),
        Check("c.three", "", fine),
    ]
    results = await run_checks(checks, Deployment(settings=settings, options=Options(timeout=0.1)))
    found = [(result.check.name, result.findings[0]) for result in results]
    assert [name for name, _ in found] == ["a.one", "b.two", "c.three"]
    assert [each.level for _, each in found] == [Level.ERROR, Level.ERROR, Level.OK]
    assert found[0][1].text == "the check itself failed (ZeroDivisionError)"
    assert found[1][1].text == "it was not done within 0.1 s"
    assert "secret" not in str(results)


async def test_checks_run_at_the_same_time_but_those_that_measure(settings: Settings) -> None:
    running: set[str] = set()
    together: list[frozenset[str]] = []
    met = asyncio.Barrier(2)

    def meeting(name: str) -> CheckFunction:
        async def check(_deployment: Deployment) -> Sequence[Finding]:
            running.add(name)
            await met.wait()
            together.append(frozenset(running))
            running.discard(name)
            return [ok("")]

        return check

    async def alone(_deployment: Deployment) -> Sequence[Finding]:
        return [ok(f"{len(running)} others")]

    checks = [
        Check("m.measure", "", alone, measures=True),
        Check("a.one", "", meeting("one")),
        Check("b.two", "", meeting("two")),
    ]
    done: list[str] = []
    results = await run_checks(
        checks,
        Deployment(settings=settings, options=Options(timeout=60)),
        lambda check: done.append(check.name),
    )
    assert frozenset({"one", "two"}) in together
    assert results[0].findings == [ok("0 others")]
    assert done[-1] == "m.measure"
    assert sorted(done) == ["a.one", "b.two", "m.measure"]


@pytest.mark.parametrize(
    ("failure", "level", "said"),
    [
        (Skip("not here"), Level.SKIPPED, "not here"),
        (ConfigError(["a: wrong"]), Level.ERROR, "a: wrong"),
        (ServerError("no port"), Level.ERROR, "no port"),
        (StoreUnavailable("All are busy."), Level.ERROR, "All are busy."),
        (asyncpg.InsufficientPrivilegeError("no right"), Level.ERROR, "no right"),
        (TimeoutError(), Level.ERROR, "no answer in time"),
        (ConnectionRefusedError(), Level.ERROR, "refused"),
    ],
)
async def test_failure_becomes_a_finding(
    settings: Settings, failure: Exception, level: Level, said: str
) -> None:
    check = Check("a.one", "", raising(failure))
    [result] = await run_checks([check], Deployment(settings=settings))
    assert result.findings[0].level is level
    assert said in result.findings[0].text


async def test_check_that_gives_up_does_not_take_what_others_wait_for(
    settings: Settings,
) -> None:
    """What is opened once is opened on, when the first who asked for it is cancelled."""
    deployment = Deployment(settings=settings)
    gate = asyncio.Event()

    async def open_slowly() -> str:
        await gate.wait()
        return "open"

    deployment._database.make = open_slowly  # type: ignore[assignment]  # anything will do
    first = asyncio.create_task(deployment._database.get())
    second = asyncio.create_task(deployment._database.get())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    gate.set()
    assert await second == "open"  # type: ignore[comparison-overlap]  # as above
