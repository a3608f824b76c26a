"""A real OpenTelemetry collector takes what the service sends, over mutual TLS."""

import asyncio
import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from authsvc.config import Settings, TelemetrySettings
from authsvc.conventions import HASH, METRICS
from tests.support.certificates import Authority
from tests.support.service import StartService
from tests.world.tools import COLLECTOR

pytestmark = pytest.mark.world

LOGIN = "authsvc.v1.AuthService/Login"
_PATIENCE = 60.0


class RealCollector:
    """The collector, which writes what it receives into a file."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        self._folder = folder
        self._written = folder / "received.json"
        server = authority.server()
        client = authority.caller("spiffe://authsvc.test/self")
        for name, content in {
            "ca.crt": authority.certificate,
            "server.crt": server.certificate,
            "server.key": server.key,
            "client.crt": client.certificate,
            "client.key": client.key,
        }.items():
            (folder / name).write_bytes(content)
        tls = {
            "cert_file": str(folder / "server.crt"),
            "key_file": str(folder / "server.key"),
            "client_ca_file": str(folder / "ca.crt"),
        }
        pipeline = {"receivers": ["otlp"], "exporters": ["file"]}
        settings = {
            "receivers": {
                "otlp": {"protocols": {"grpc": {"endpoint": f"127.0.0.1:{self._port}", "tls": tls}}}
            },
            "exporters": {"file": {"path": str(self._written)}},
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"traces": pipeline, "metrics": pipeline},
            },
        }
        # JSON is YAML.
        (folder / "collector.yaml").write_text(json.dumps(settings))
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        program = COLLECTOR.bin / "collector"
        with (self._folder / "output.txt").open("wb") as output:
            self.process = subprocess.Popen(
                [program, "--config", self._folder / "collector.yaml"],
                stdout=output,
                stderr=output,
            )

    def settings(self) -> TelemetrySettings:
        """Return settings that lead here."""
        return TelemetrySettings(
            otlp_endpoint=f"https://localhost:{self._port}",
            ca_file=self._folder / "ca.crt",
            certificate_file=self._folder / "client.crt",
            key_file=self._folder / "client.key",
            traces_sample_ratio=1,
        )

    async def until(self, found: Callable[[list[Any]], Any]) -> Any:
        """Wait until something is found in the requests that were received; return it."""
        async with asyncio.timeout(_PATIENCE):
            while not (result := found(self._requests())):
                assert self.process.poll() is None, (self._folder / "output.txt").read_text()
                await asyncio.sleep(0.1)
        return result

    def _requests(self) -> list[Any]:
        if not self._written.exists():
            return []
        lines = self._written.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.fixture
def real_collector(tmp_path: Path, authority: Authority) -> Iterator[RealCollector]:
    if not COLLECTOR.is_installed():
        pytest.skip("the collector is missing: run `python -m tests.world.install`")
    folder = tmp_path / "collector"
    folder.mkdir()
    collector = RealCollector(folder, authority)
    collector.start()
    yield collector
    collector.process.kill()
    collector.process.wait()


def spans(requests: list[Any]) -> list[Any]:
    return [
        span
        for request in requests
        for resource in request.get("resourceSpans", ())
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def metrics(requests: list[Any]) -> dict[str, Any]:
    return {
        metric["name"]: metric
        for request in requests
        for resource in request.get("resourceMetrics", ())
        for scope in resource["scopeMetrics"]
        for metric in scope["metrics"]
    }


async def test_collector_takes_traces_and_metrics(
    real_collector: RealCollector, live_settings: Settings, start_service: StartService
) -> None:
    settings = live_settings.model_copy(update={"telemetry": real_collector.settings()})
    service = await start_service(settings)
    await service.new_session()

    def login_of(requests: list[Any]) -> Any:
        return next((span for span in spans(requests) if span["name"] == LOGIN), None)

    login = await real_collector.until(login_of)
    assert login["kind"] == 2
    await service.app.stop()

    def all_of(requests: list[Any]) -> Any:
        return requests if "rpc.server.call.duration" in metrics(requests) else None

    requests = await real_collector.until(all_of)
    hashes = [span for span in spans(requests) if span["name"] == HASH]
    assert login["spanId"] in {span.get("parentSpanId") for span in hashes}
    received = metrics(requests)
    histogram = received["rpc.server.call.duration"]["histogram"]
    assert histogram["aggregationTemporality"] == 2
    exemplars = {
        exemplar["spanId"]
        for point in histogram["dataPoints"]
        for exemplar in point.get("exemplars", ())
    }
    assert login["spanId"] in exemplars
    assert METRICS["process_cpu_seconds"].name in received
    assert received["authsvc_rpc_calls"]["sum"]["isMonotonic"]
