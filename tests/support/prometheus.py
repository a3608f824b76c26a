"""Prometheus as operators run it, with rules whose times may be divided."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml

from authsvc.dev.ports import reserve
from deploy.observability.__main__ import rule_files
from deploy.observability.rule import Times
from tests.world.install import PROMETHEUS

# Only so that a failing test ends.
_PATIENCE = 180.0
_POLL = 0.1


class Prometheus:
    """Scrapes the targets of `scrape`, each `interval`, and evaluates the project's rules."""

    def __init__(self, folder: Path, *, divisor: int = 1, interval: str = "400ms") -> None:
        self._folder = folder
        self._times = Times(divisor)
        self._interval = interval
        self._jobs: dict[str, Sequence[str]] = {}
        self.url = ""

    async def __aenter__(self) -> Self:
        self._folder.mkdir()
        (self._folder / "targets").mkdir()
        for name, text in rule_files(self._times).items():
            (self._folder / name).write_text(text)
        settings = {
            "global": {
                "scrape_interval": self._interval,
                "scrape_timeout": self._interval,
                "evaluation_interval": self._interval,
            },
            "rule_files": ["*.yaml"],
            "scrape_configs": [
                {
                    "job_name": "authsvc",
                    "file_sd_configs": [{"files": ["targets/*.json"], "refresh_interval": "1s"}],
                }
            ],
        }
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
        held, address = reserve()
        command = [
            *PROMETHEUS.command(),
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={address}",
            "--log.level=warn",
        ]
        self._output = (self._folder / "output.txt").open("wb")
        self._process = await asyncio.create_subprocess_exec(
            *command, stdout=self._output, stderr=self._output
        )
        held.close()
        self.url = f"http://{address}"
        self._session = aiohttp.ClientSession()
        async with asyncio.timeout(_PATIENCE):
            while not await self._is_ready():
                assert self._process.returncode is None, self.output()
                await asyncio.sleep(_POLL)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()
        self._process.terminate()
        await self._process.wait()
        self._output.close()

    def output(self) -> str:
        """Return what it has logged."""
        return (self._folder / "output.txt").read_text()

    def scrape(
        self, job: str, targets: Sequence[str], labels: Mapping[str, str] | None = None
    ) -> None:
        """Scrape these addresses as `job` from now on, and no others. `labels` are theirs."""
        self._jobs[job] = targets
        path = self._folder / "targets" / f"{job}.json"
        scratch = path.with_suffix(".new")
        group = {"targets": [*targets], "labels": {"job": job, **(labels or {})}}
        scratch.write_text(json.dumps([group]))
        scratch.replace(path)

    async def query(self, expr: str) -> list[tuple[Mapping[str, str], float]]:
        """Return the series of an expression, and their values."""
        found = await self._get("query", query=expr)
        return [(each["metric"], float(each["value"][1])) for each in found["result"]]

    async def series(self, selector: str) -> list[Mapping[str, str]]:
        """Return the labels of the series that a selector matches."""
        found: list[Mapping[str, str]] = await self._get("series", **{"match[]": selector})
        return found

    async def until(self, expr: str) -> None:
        """Wait until an expression has a result."""
        async with asyncio.timeout(_PATIENCE):
            while not await self.query(expr):  # noqa: ASYNC110 - it has no event for it
                await asyncio.sleep(_POLL)

    async def query_range(
        self, expr: str, start: float, end: float, step: float
    ) -> list[tuple[Mapping[str, str], list[tuple[float, float]]]]:
        """Return the series of an expression over a time, and their points."""
        found = await self._get(
            "query_range", query=expr, start=str(start), end=str(end), step=str(step)
        )
        return [
            (each["metric"], [(time, float(value)) for time, value in each["values"]])
            for each in found["result"]
        ]

    async def firing(self) -> set[tuple[str, str, str]]:
        """Return the name, severity and job of all alerts that fire."""
        found = await self._get("alerts")
        return {
            (labels["alertname"], labels["severity"], labels.get("job", ""))
            for alert in found["alerts"]
            for labels in [alert["labels"]]
            if alert["state"] == "firing"
        }

    async def _get(self, what: str, **parameters: str) -> Any:
        url = f"{self.url}/api/v1/{what}"
        async with self._session.get(url, params=parameters) as response:
            answer = await response.json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def _is_ready(self) -> bool:
        try:
            async with self._session.get(f"{self.url}/-/ready") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False
