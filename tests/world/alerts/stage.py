"""Watches alerts fire and end, tries their runbooks meanwhile, and keeps the table of it."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from deploy.observability.__main__ import alerts
from tests.support.documents import Page, page
from tests.support.prometheus import Prometheus
from tests.support.shell import sh
from tests.world.alerts.installation import Installation
from tests.world.install import PROMETHEUS

# Only so that a failing test ends.
_PATIENCE = 240.0
_POLL = 0.1
# Commands at a time: each starts a Python of its own.
_SHELLS = 3
_PAGES = {alert.name: alert.page for alert in alerts()}
_SEVERITIES = {
    name: {alert.severity.value for alert in alerts() if alert.name == name} for name in _PAGES
}

TABLE = (
    "| alert | fault | seconds until it fired | seconds until it ended | runbook tried |\n"
    "|---|---|---|---|---|"
)

Step = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one alert."""

    alert: str
    fault: str
    seconds: float
    until_ended: float
    is_tried_elsewhere: bool

    def text(self) -> str:
        """Return it as a row of the table."""
        tried = "in tests/docs" if self.is_tried_elsewhere else "yes"
        return (
            f"| `{self.alert}` | {self.fault} | {self.seconds:.1f} | {self.until_ended:.1f}"
            f" | {tried} |"
        )


@dataclass
class Stage:
    """Prometheus with divided times, and what was tried of its alerts."""

    prometheus: Prometheus
    folder: Path
    say: Callable[[str], object]
    rows: list[Row] = field(default_factory=list)
    # Every alert that has fired, as its name and job.
    fired: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._firing: set[tuple[str, str, str]] = set()
        # When each was last seen to fire: some fire for seconds only, while their cause goes on.
        self._seen: dict[tuple[str, str, str], float] = {}
        self._changed = asyncio.Condition()
        self._shells = asyncio.Semaphore(_SHELLS)

    async def watch(self) -> None:
        """Keep up with the alerts that fire, until cancelled."""
        while True:
            firing = await self.prometheus.firing()
            async with self._changed:
                self._firing = firing
                self._seen |= dict.fromkeys(firing, monotonic())
                self.fired |= {(name, job) for name, _, job in firing}
                self._changed.notify_all()
            await asyncio.sleep(_POLL)

    async def try_alerts(
        self,
        installation: Installation,
        fault: str,
        names: Iterable[str],
        *,
        cause: Step,
        repair: Step | None = None,
        is_tried_elsewhere: bool = False,
    ) -> None:
        """See the alerts fire after `cause`, try their runbooks, and see them end after `repair`.

        Without `repair`, the commands of the runbooks are what repairs it, or time is. Runbooks
        may be tried elsewhere.
        """
        names = tuple(names)
        began = monotonic()
        await cause()
        seconds = await asyncio.gather(*(self._fires(installation, n, began) for n in names))
        pages = () if is_tried_elsewhere else names
        looked = [self._follow(installation, name, "Look", "Act") for name in pages]
        await asyncio.gather(*looked)
        repaired = monotonic()
        if repair is not None:
            await repair()
        ended = await asyncio.gather(*(self._ends(installation, n, repaired) for n in names))
        await asyncio.gather(*(self._follow(installation, n, "Afterwards") for n in pages))
        for name, fired, end in zip(names, seconds, ended, strict=True):
            self.rows.append(Row(name, fault, fired, end, is_tried_elsewhere))
            self.say(self.rows[-1].text())

    async def _fires(self, installation: Installation, name: str, began: float) -> float:
        wanted = {(name, severity, installation.job) for severity in _SEVERITIES[name]}

        def has_fired() -> bool:
            return all(self._seen.get(each, 0.0) > began for each in wanted)

        await self._until(has_fired, f"{name} of {installation.job} to fire")
        return monotonic() - began

    async def _ends(self, installation: Installation, name: str, since: float) -> float:
        def has_ended() -> bool:
            return not any(
                (name, severity, installation.job) in self._firing for severity in _SEVERITIES[name]
            )

        await self._until(has_ended, f"{name} of {installation.job} to end")
        return monotonic() - since

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(_PATIENCE), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            raise AssertionError(f"waited for {what} in vain: {sorted(self._firing)}") from None

    async def _follow(self, installation: Installation, name: str, *sections: str) -> None:
        """Run the commands of some sections of the alert's runbook."""
        runbook = page(f"docs/runbooks/{_PAGES[name]}.md")
        blocks = [block for section in sections for block in _blocks(runbook, section)]
        for block in blocks:
            async with self._shells:
                await sh(
                    block,
                    self.folder,
                    cwd=installation.folder,
                    PROMETHEUS=self.prometheus.url,
                    PATH=str((PROMETHEUS.folder / PROMETHEUS.path).parent),
                )


def _blocks(runbook: Page, section: str) -> list[str]:
    found = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", runbook.text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"{runbook} lacks {section}"
    return re.findall(r"^```sh\n(.*?)^```$", found[1], re.MULTILINE | re.DOTALL)
