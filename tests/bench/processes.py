"""Owns the measured processes: the echo, the service, and PostgreSQL beneath it."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.dev.workspace import Workspace
from authsvc.store.postgres.migrator import migrate

_TICK = 1_000_000 / os.sysconf("SC_CLK_TCK")
_PATIENCE = 30.0


def cpu_us(pid: int) -> float:
    """Return the CPU time that a process has used so far, in microseconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK


@dataclass(frozen=True, slots=True)
class Target:
    """A server process: its port, certificates and process id."""

    name: str
    port: int
    pid: int
    certs: Path

    def cpu_us(self) -> float:
        """Return the CPU time that the process has used so far, in microseconds."""
        return cpu_us(self.pid)

    def memory_mb(self) -> float:
        """Return the process's resident memory in megabytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1_000

    def channel(self, role: str) -> grpc.aio.Channel:
        """Return a channel of the client that holds `role`."""
        client = self.certs / "clients" / role
        credentials = grpc.ssl_channel_credentials(
            (self.certs / "ca.crt").read_bytes(),
            client.with_suffix(".key").read_bytes(),
            client.with_suffix(".crt").read_bytes(),
        )
        # A client that waits for the start reconnects quickly; otherwise its backoff would be
        # measured.
        waits = ("initial", "min", "max")
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            *((f"grpc.{name}_reconnect_backoff_ms", 50) for name in waits),
        ]
        return grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options)


@contextmanager
def targets(folder: Path, **environment: str) -> Iterator[tuple[Target, Target, float]]:
    """Start everything; yield the echo, the service, and its seconds from start to SERVING.

    `environment` has more variables for the service. `metered` starts another replica of it in the
    same folder.
    """
    workspace = Workspace(folder)
    workspace.prepare()
    postgres = EmbeddedPostgres(folder)
    with ExitStack() as stack:
        postgres.start()
        stack.callback(postgres.stop)
        workspace.set_database(postgres.dsn())
        asyncio.run(migrate(postgres.dsn()))
        echo_process = _start(stack, ["-m", "tests.bench.echo", str(workspace.certificates)])
        assert echo_process.stdout is not None
        port = int(echo_process.stdout.readline())
        echo = Target("echo", port, echo_process.pid, workspace.certificates)
        # An installed service has its bytecode compiled; a checkout gets it by running once.
        subprocess.run(
            [sys.executable, "-m", "authsvc", "--version"],
            env=_environment(),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        began = time.monotonic()
        service = _serve(stack, workspace, "authsvc", **environment)
        asyncio.run(_until_serving(service))
        yield echo, service, time.monotonic() - began


@asynccontextmanager
async def metered(folder: Path) -> AsyncIterator[tuple[Target, Path]]:
    """Start a service that measures its turns; yield it and the socket to ask it by.

    It keeps a core busy, so it runs only while it is needed.
    """
    path = folder / "turns.sock"
    with ExitStack() as stack:
        # What is sent is rejected by the thousand, and each rejection would be a line.
        quiet = {"AUTHSVC_LOG__LEVEL": "error"}
        service = _serve(stack, Workspace(folder), "tests.bench.metered", str(path), **quiet)
        await _until_serving(service)
        yield service, path


@asynccontextmanager
async def replica(folder: Path) -> AsyncIterator[Target]:
    """Start another replica of the service; yield it."""
    with ExitStack() as stack:
        service = _serve(stack, Workspace(folder), "authsvc")
        await _until_serving(service)
        yield service


@contextmanager
def samples(service: Target, issuer: str, kinds: Iterable[str]) -> Iterator[dict[str, Target]]:
    """Start a sample service of each kind; yield them by kind."""
    with ExitStack() as stack:
        servers = {}
        for kind in kinds:
            arguments = [str(service.certs), str(service.port), issuer, kind]
            process = _start(stack, ["-m", "tests.bench.guarded", *arguments])
            assert process.stdout is not None
            port = int(process.stdout.readline())
            servers[kind] = Target(kind, port, process.pid, service.certs)
        yield servers


def _serve(stack: ExitStack, workspace: Workspace, *program: str, **environment: str) -> Target:
    grpc_port, http_port = _free_port(), _free_port()
    process = _start(
        stack,
        ["-m", *program, "serve", "-c", str(workspace.config)],
        AUTHSVC_SECRETS_DIR=str(workspace.secrets),
        AUTHSVC_GRPC__ADDRESS=f"127.0.0.1:{grpc_port}",
        AUTHSVC_HTTP__ADDRESS=f"127.0.0.1:{http_port}",
        AUTHSVC_LOG__FORMAT="json",
        AUTHSVC_RATE_LIMITS__POLICIES__BENCH='{"requests": 1000000000, "window": "1d"}',
        AUTHSVC_RATE_LIMITS__POLICIES__ONCE='{"requests": 1, "window": "1d"}',
        **{"AUTHSVC_LOG__LEVEL": "warning", **environment},
    )
    return Target("service", grpc_port, process.pid, workspace.certificates)


def _start(stack: ExitStack, arguments: list[str], **environment: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE if not environment else subprocess.DEVNULL,
        env=_environment() | environment,
    )

    def stop() -> None:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    stack.callback(stop)
    return process


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _until_serving(target: Target) -> None:
    async with asyncio.timeout(_PATIENCE), target.channel("app") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)
            else:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
