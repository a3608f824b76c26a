"""An installation of the service: a state folder, a database, and replicas that are scraped."""

import asyncio
import contextlib
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import asyncpg
import grpc

from authsvc.dev.ports import addresses, reserve
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.dev.workspace import Workspace
from authsvc.v1.auth_service_pb2 import ValidateTokenRequest
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.rate_limit_service_pb2 import Charge, CheckRateLimitRequest
from authsvc.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from authsvc.v1.session_service_pb2 import ValidateSessionRequest
from authsvc.v1.session_service_pb2_grpc import SessionServiceStub
from tests.support.processes import Process
from tests.support.prometheus import Prometheus

# Seconds between the calls of an installation's ordinary load.
_PAUSE = 0.05


class Replica:
    """A replica: its process, its HTTP address, and a channel for each role."""

    def __init__(self, process: Process, grpc_address: str, http: str, certificates: Path) -> None:
        self.process = process
        self.grpc_address = grpc_address
        self.http = http
        self._certificates = certificates
        self._channels: dict[str, grpc.aio.Channel] = {}

    def channel(self, role: str) -> grpc.aio.Channel:
        """Return the channel of the client that holds `role`."""
        if role not in self._channels:
            client = self._certificates / "clients" / role
            credentials = grpc.ssl_channel_credentials(
                (self._certificates / "ca.crt").read_bytes(),
                client.with_suffix(".key").read_bytes(),
                client.with_suffix(".crt").read_bytes(),
            )
            self._channels[role] = grpc.aio.secure_channel(
                self.grpc_address,
                credentials,
                options=[
                    # Otherwise channels of one process share connections.
                    ("grpc.use_local_subchannel_pool", 1),
                    ("grpc.max_reconnect_backoff_ms", 500),
                ],
            )
        return self._channels[role]

    async def end(self, number: int = signal.SIGKILL) -> None:
        """End it by a signal, even if it is frozen, and wait until it has ended."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()
        self.process.send(number)
        self.process.send(signal.SIGCONT)
        await asyncio.to_thread(self.process.end)


class Installation:
    """Replicas on one database of `server`, scraped as a job of their own.

    `settings` are more of TOML, and `replaced` changes what `make run` would have written.
    """

    def __init__(
        self,
        name: str,
        *,
        folder: Path,
        prometheus: Prometheus,
        server: EmbeddedPostgres,
        settings: str = "",
        replaced: Mapping[str, str] | None = None,
    ) -> None:
        self.job = f"{name}-authsvc"
        self.folder = folder / name
        self.workspace = Workspace(self.folder / ".authsvc")
        self.replicas: list[Replica] = []
        self._prometheus = prometheus
        self._server = server
        self._database = f"alerts_{name}"
        self._settings = settings
        self._replaced = replaced or {}
        self._loads: set[asyncio.Task[None]] = set()

    @property
    def dsn(self) -> str:
        """The address of its database."""
        return self._server.dsn(self._database)

    async def prepare(self) -> None:
        """Make its state folder and its database, which is a copy of the server's own."""
        self.folder.mkdir()
        self.workspace.prepare()
        self.workspace.set_addresses({"grpc": "127.0.0.1:0", "http": "127.0.0.1:0"})
        self.workspace.set_database(self.dsn)
        text = f"{self.workspace.config.read_text()}\n{self._settings}"
        for old, new in self._replaced.items():
            assert old in text, old
            text = text.replace(old, new)
        self.workspace.config.write_text(text)
        connection = await asyncpg.connect(self._server.dsn("postgres"))
        try:
            await connection.execute(f"CREATE DATABASE {self._database} TEMPLATE authsvc")
        finally:
            await connection.close()

    async def start(self, *, dsn: str | None = None, **environment: str) -> Replica:
        """Start one more replica, the first one at the addresses of the state folder.

        It may reach the database at another address than the others.
        """
        (held, grpc_address), (other, http) = reserve(), reserve()
        if not self.replicas:
            grpc_address, http = addresses(self.workspace.folder).values()
        held.close()
        other.close()
        secrets = self.workspace.secrets
        if dsn is not None:
            secrets = shutil.copytree(secrets, self.folder / f"secrets{len(self.replicas)}")
            (secrets / "database__url").write_text(dsn)
        return await self._start(grpc_address, http, secrets, **environment)

    async def restart(self, replica: Replica, **environment: str) -> Replica:
        """Start a replica that has ended again, at the same addresses; return the new one."""
        self.replicas.remove(replica)
        secrets = self.workspace.secrets
        return await self._start(replica.grpc_address, replica.http, secrets, **environment)

    async def _start(
        self, grpc_address: str, http: str, secrets: Path, **environment: str
    ) -> Replica:
        listening = {"AUTHSVC_GRPC__ADDRESS": grpc_address, "AUTHSVC_HTTP__ADDRESS": http}
        arguments = ("-c", self.workspace.config, "--secrets", secrets)
        process = Process(
            "serve",
            *map(str, arguments),
            module="tests.world.alerts.replica",
            **(listening | environment),
        )
        replica = Replica(process, grpc_address, http, self.workspace.certificates)
        self.replicas.append(replica)
        await asyncio.to_thread(process.wait_for, "serving")
        self.scrape()
        return replica

    def scrape(self) -> None:
        """Let Prometheus scrape the present replicas, and no others."""
        self._prometheus.scrape(self.job, [replica.http for replica in self.replicas])

    def load(self, replica: Replica) -> None:
        """Call the replica, a few times a second, until `stop`."""
        self._loads.add(asyncio.ensure_future(_call(replica)))

    async def stop(self) -> None:
        """Stop the load, and kill all replicas, which are no longer scraped."""
        for load in self._loads:
            load.cancel()
        await asyncio.gather(*self._loads, return_exceptions=True)
        self._prometheus.scrape(self.job, [])
        for replica in self.replicas:
            await replica.end()


async def _call(replica: Replica) -> None:
    """Ask what services ask, whether it is answered or not."""
    while True:
        edge = replica.channel("edge")
        charge = Charge(policy="api", key="load")
        calls = (
            AuthServiceStub(edge).ValidateToken(ValidateTokenRequest(access_token="junk")),
            SessionServiceStub(edge).ValidateSession(ValidateSessionRequest(session_token="junk")),
            RateLimitServiceStub(edge).CheckRateLimit(CheckRateLimitRequest(charges=[charge])),
        )
        for call in calls:
            with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.UsageError):
                await call
            await asyncio.sleep(_PAUSE)
