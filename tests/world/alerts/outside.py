"""Faults of what the service calls: mail server, archive, provider; and a forgotten freeze."""

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from aiohttp import web

from authsvc.dev.ports import reserve
from authsvc.dev.provider import DevProvider
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from tests.support.accounts import PASSWORD
from tests.support.mail_server import MailServer, mail_server
from tests.support.shell import sh
from tests.world.alerts.installation import Installation
from tests.world.alerts.scene import Scene, anybody, going_on, nothing

if TYPE_CHECKING:
    from authsvc.v1.auth_service_pb2_grpc import AuthServiceAsyncStub

# More than it takes for the alert that no message gets through.
_MESSAGES = 8


class _Neighbour:
    """A service outside, at an address where nobody listens until it starts."""

    def __init__(self) -> None:
        self._held, self.address = reserve()

    async def start(self, app: web.Application, stack: AsyncExitStack) -> None:
        runner = web.AppRunner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        host, _, port = self.address.rpartition(":")
        self._held.close()
        await web.TCPSite(runner, host, int(port)).start()

    def close(self) -> None:
        self._held.close()


def _settings(mail: MailServer, archive: _Neighbour) -> str:
    return f"""
[delivery.smtp]
host = "localhost"
port = {mail.port}
tls = "off"
sender = "login@shop.test"

[audit.forward]
target = "webhook"
longest_retry = "1s"

[audit.forward.webhook]
url = "http://{archive.address}/"
secrets = ["whsec_{"QUJD" * 8}"]
"""


async def outside_refuses(scene: Scene) -> None:
    archive, provider = _Neighbour(), _Neighbour()
    async with AsyncExitStack() as stack:
        for neighbour in (archive, provider):
            stack.callback(neighbour.close)
        mail = await stack.enter_async_context(mail_server())
        retries = 'first_retry = "1s"\nlongest_retry = "1s"'
        replaced = {
            'channel = "folder"': f'channel = "smtp"\n{retries}',
            '"http://127.0.0.1:8090"': f'"http://{provider.address}"',
        }
        installation = await stack.enter_async_context(
            scene.installation("mail", _settings(mail, archive), replaced=replaced)
        )
        replica = await installation.start()
        auth = AuthServiceStub(replica.channel("app"))
        await asyncio.gather(
            _mail_is_refused(scene, installation, auth, mail),
            _archive_is_down(scene, installation, archive),
            _provider_is_down(scene, installation, auth, provider),
            _freeze_is_forgotten(scene, installation),
        )


async def _mail_is_refused(
    scene: Scene, installation: Installation, auth: "AuthServiceAsyncStub", mail: MailServer
) -> None:
    async def register() -> None:
        for _ in range(_MESSAGES):
            email, client = anybody()
            request = auth_pb.RegisterRequest(email=email, password=PASSWORD, client=client)
            await auth.Register(request)

    async def refuse_for_now() -> None:
        mail.rcpt = "451 come again"
        await register()

    async def refuse() -> None:
        mail.rcpt = "550 no"

    async def accept() -> None:
        mail.rcpt = "250 OK"

    await scene.stage.try_alerts(
        installation,
        "the mail server says 451 to each recipient",
        ("AuthsvcMessagesDelayed",),
        cause=refuse_for_now,
        repair=refuse,
    )
    await scene.stage.try_alerts(
        installation,
        "the mail server says 550 to each recipient",
        ("AuthsvcMessagesAbandoned",),
        cause=register,
        repair=accept,
    )


async def _archive_is_down(scene: Scene, installation: Installation, archive: _Neighbour) -> None:
    async def accepted(_request: web.Request) -> web.Response:
        return web.Response()

    async with AsyncExitStack() as stack:

        async def start() -> None:
            app = web.Application()
            app.router.add_post("/", accepted)
            await archive.start(app, stack)

        await scene.stage.try_alerts(
            installation,
            "nobody listens where audit events are sent",
            ("AuthsvcAuditForwardingBehind",),
            cause=nothing,
            repair=start,
        )


async def _provider_is_down(
    scene: Scene, installation: Installation, auth: "AuthServiceAsyncStub", provider: _Neighbour
) -> None:
    def begin() -> Awaitable[object]:
        request = auth_pb.BeginOAuthRequest(
            provider="local",
            redirect_uri="http://localhost:8080/callback",
            client=anybody()[1],
        )
        return auth.BeginOAuth(request)

    async with AsyncExitStack() as stack:

        async def cause() -> None:
            await stack.enter_async_context(going_on(begin))

        async def start() -> None:
            secret = installation.workspace.provider_secret.read_text()
            await provider.start(DevProvider(f"http://{provider.address}", secret).app(), stack)

        await scene.stage.try_alerts(
            installation,
            "the identity provider is down",
            ("AuthsvcProviderUnavailable",),
            cause=cause,
            repair=start,
        )


async def _freeze_is_forgotten(scene: Scene, installation: Installation) -> None:
    async def freeze() -> None:
        command = "authsvc incident freeze --method passkey --for 2h --reason test --yes"
        await sh(command, scene.folder, cwd=installation.folder)

    await scene.stage.try_alerts(
        installation, "a freeze is forgotten", ("AuthsvcLoginsFrozen",), cause=freeze
    )
