"""While replicas are replaced under load, no call fails, and none is done twice."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import asyncpg
import grpc
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import ErrorInfo

from authsvc.app.application import Application
from authsvc.config import Settings
from authsvc.core.audit.recording import AuditType
from authsvc.dev.ports import reserve
from authsvc.v1.auth_service_pb2 import LoginRequest, RefreshTokensRequest, RegisterRequest
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.common_pb2 import ClientContext
from authsvc.v1.rate_limit_service_pb2 import Charge, CheckRateLimitRequest
from authsvc.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from tests.support.accounts import PASSWORD, cheap_passwords
from tests.support.certificates import Authority, channel_credentials
from tests.support.clients import OpenTwin, Twin
from tests.support.documents import REPOSITORY, page
from tests.support.probe import identity_of, with_changes
from tests.support.service import detail

# `upload`, as shipped, grants ten an hour.
_POLICY, _GRANTED = "upload", 10
_CALLERS_OF_EACH = 3
# How often each caller calls between two steps of an update.
_CALLS = 3


class Replicas:
    """Two replicas of the service at fixed addresses, on one database."""

    def __init__(self, settings: Settings, addresses: list[str]) -> None:
        self.target = "ipv4:" + ",".join(addresses)
        self._database = settings.database.url.get_secret_value()
        self._settings = [with_changes(settings, "grpc", address=each) for each in addresses]
        self._running: dict[int, Application] = {}

    async def start(self, slot: int) -> None:
        self._running[slot] = await Application.start(self._settings[slot])

    async def stop(self, slot: int) -> None:
        """Stop a replica as SIGTERM does."""
        await self._running.pop(slot).stop()

    async def done(self) -> Counter[str]:
        """Count the logins of each user and the refreshes of each session."""
        connection = await asyncpg.connect(self._database)
        try:
            rows = await connection.fetch("SELECT type, user_id, session_id FROM audit_events")
        finally:
            await connection.close()
        return Counter(
            str(row["user_id"] if row["type"] == AuditType.LOGIN else row["session_id"])
            for row in rows
            if row["type"] in {AuditType.LOGIN, AuditType.REFRESH}
        )

    async def close(self) -> None:
        for slot in list(self._running):
            await self.stop(slot)


@pytest_asyncio.fixture
async def replicas(live_settings: Settings) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        addresses = []
        for _ in range(2):
            holder, address = reserve()
            stack.callback(holder.close)
            addresses.append(address)
        passwords = cheap_passwords()
        settings = live_settings.model_copy(update={"passwords": passwords})
        replicas = Replicas(settings, addresses)
        stack.push_async_callback(replicas.close)
        for slot in range(2):
            await replicas.start(slot)
        yield replicas


class Load:
    """Callers that log in, refresh and check limits without a pause, and count what succeeded."""

    def __init__(self, app: "Twin | Plain", edge: "Twin | Plain") -> None:
        self._app, self._edge = app, edge
        self.logins: dict[str, int] = {}
        self.refreshes: dict[str, int] = {}
        self.checks: dict[str, int] = {}
        self._rounds: list[int] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        for prepare in (self._log_in, self._refresh, self._check):
            for _ in range(_CALLERS_OF_EACH):
                call = await prepare()
                self._tasks.append(asyncio.create_task(self._repeat(len(self._rounds), call)))
                self._rounds.append(0)
        try:
            yield
        finally:
            self._stopped = True
            await asyncio.wait(self._tasks)
        for task in self._tasks:
            task.result()

    async def go_on(self) -> None:
        """Return when every caller has called a few more times; raise what a call raised."""
        wanted = [rounds + _CALLS for rounds in self._rounds]
        while any(rounds < count for rounds, count in zip(self._rounds, wanted, strict=True)):
            await asyncio.wait(self._tasks, timeout=0.01, return_when=asyncio.FIRST_EXCEPTION)
            for task in self._tasks:
                if task.done():
                    task.result()

    async def _repeat(self, number: int, call: Callable[[], Any]) -> None:
        while not self._stopped:
            await call()
            self._rounds[number] += 1

    async def _log_in(self) -> Callable[[], Any]:
        request = LoginRequest(email=f"{uuid4().hex}@example.test", password=PASSWORD)
        request.client.CopyFrom(_elsewhere())
        registration = RegisterRequest(email=request.email, password=PASSWORD)
        registration.client.CopyFrom(request.client)
        user = (await self._app.call("auth.Register", registration)).user_id
        self.logins[user] = 0

        async def log_in() -> None:
            await self._app.call("auth.Login", request)
            self.logins[user] += 1

        return log_in

    async def _refresh(self) -> Callable[[], Any]:
        email = f"{uuid4().hex}@example.test"
        await self._app.call("auth.Register", RegisterRequest(email=email, password=PASSWORD))
        login = LoginRequest(email=email, password=PASSWORD, client=_elsewhere())
        tokens = (await self._app.call("auth.Login", login)).tokens
        self.refreshes[tokens.session_id] = 0

        async def refresh() -> None:
            nonlocal tokens
            request = RefreshTokensRequest(refresh_token=tokens.refresh_token)
            tokens = (await self._app.call("auth.RefreshTokens", request)).tokens
            self.refreshes[tokens.session_id] += 1

        return refresh

    async def _check(self) -> Callable[[], Any]:
        key, used = "", _GRANTED

        async def check() -> None:
            nonlocal key, used
            if used == _GRANTED:
                key, used = uuid4().hex, 0
                self.checks[key] = 0
            charge = Charge(policy=_POLICY, key=key, cost=1)
            answer = await self._edge.call(
                "limits.CheckRateLimit", CheckRateLimitRequest(charges=[charge])
            )
            used += 1
            # A charge that was taken twice shows here.
            assert answer.allowed
            assert answer.verdicts[0].remaining == _GRANTED - used
            self.checks[key] += 1

        return check


class Plain:
    """A client made of what docs/clients/README.md says (Rolling updates), and nothing else."""

    _SERVICES = MappingProxyType({"auth": AuthServiceStub, "limits": RateLimitServiceStub})

    def __init__(self, target: str, authority: Authority, role: str) -> None:
        config = json.loads((REPOSITORY / "docs/clients/service-config.json").read_text())
        (health,) = page("docs/clients/README.md").blocks("json")
        self._channel = grpc.aio.secure_channel(
            target,
            channel_credentials(authority.certificate, authority.caller(identity_of(role))),
            [
                ("grpc.service_config", json.dumps(config | json.loads(health))),
                ("grpc.ssl_target_name_override", "localhost"),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )

    async def call(self, rpc: str, request: Any) -> Any:
        """Call `service.Rpc`; send it again if it was refused before it began."""
        service, _, name = rpc.partition(".")
        stub = self._SERVICES[service](self._channel)
        for pause in (0.1, 0.2, 0.4, None):
            try:
                return await getattr(stub, name)(request, timeout=30, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                if pause is None or detail(error, ErrorInfo).metadata.get("effect") != "none":
                    raise
                await asyncio.sleep(random.uniform(pause / 2, pause))
        raise AssertionError

    async def close(self) -> None:
        await self._channel.close()


def _elsewhere() -> ClientContext:
    """Return a user's client at an address of its own, as no limit is to be reached."""
    return ClientContext(ip=f"2001:db8:{uuid4().hex[:4]}:{uuid4().hex[:4]}::1")


_OFTEN = pytest.mark.parametrize(
    "updates", [1, pytest.param(8, marks=pytest.mark.world)], ids=["once", "often"]
)


@_OFTEN
async def test_update_under_load_fails_no_call_and_does_none_twice(
    updates: int, replicas: Replicas, open_twin: OpenTwin
) -> None:
    opened = partial(open_twin, replicas.target, server_name="localhost", timeout=30)
    await _updated(updates, replicas, Load(opened("app"), opened("edge")))


@_OFTEN
async def test_client_of_any_language_survives_update_as_documented(
    updates: int, replicas: Replicas, authority: Authority
) -> None:
    app, edge = (Plain(replicas.target, authority, role) for role in ("app", "edge"))
    try:
        await _updated(updates, replicas, Load(app, edge))
    finally:
        await app.close()
        await edge.close()


async def _updated(updates: int, replicas: Replicas, load: Load) -> None:
    """Replace both replicas under load, so many times; nothing fails or is done twice."""
    async with load.running():
        for _ in range(updates):
            for slot in range(2):
                await load.go_on()
                await replicas.stop(slot)
                await load.go_on()
                await replicas.start(slot)
    done = await replicas.done()
    for counted in (load.logins, load.refreshes):
        assert all(counted.values())
        assert counted == {key: done[key] for key in counted}
