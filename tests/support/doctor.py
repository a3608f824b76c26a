"""Running single checks of `authsvc doctor`, and looking at what they find."""

from typing import Any

from authsvc.cli.doctor.deployment import Deployment, Options
from authsvc.cli.doctor.findings import Finding, Level
from authsvc.cli.doctor.running import run_checks
from authsvc.cli.doctor.table import CHECKS
from authsvc.config import Settings

# Only so that a failing test ends; a loaded machine may take long.
PATIENT = 60.0


async def examine(name: str, settings: Settings, **more: Any) -> list[Finding]:
    """Return what the check of this name finds; `more` are options, or parts of the deployment."""
    parts = {part: more.pop(part) for part in ("machine", "groups") if part in more}
    deployment = Deployment(
        settings=settings, options=Options(**{"timeout": PATIENT} | more), **parts
    )
    try:
        [result] = await run_checks([each for each in CHECKS if each.name == name], deployment)
    finally:
        await deployment.close()
    assert result.findings
    return list(result.findings)


async def levels(name: str, settings: Settings, **more: Any) -> list[Level]:
    """Return the levels of what the check of this name finds."""
    return [each.level for each in await examine(name, settings, **more)]


async def only(level: Level, name: str, settings: Settings, **more: Any) -> str:
    """Return the text of the one finding of this level; each that is bad says what to do."""
    found = await examine(name, settings, **more)
    for each in found:
        assert bool(each.remedy) == (each.level in {Level.WARNING, Level.ERROR}), each
    [text] = [each.text for each in found if each.level is level]
    return text
