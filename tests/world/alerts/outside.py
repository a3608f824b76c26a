"""Faults of what the service calls: mail server, archive, provider; and a freeze."""

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack

import aiohttp.web

from authsvc.dev.ports import reserve
from authsvc.dev.provider import DevProvider
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from tests.support.accounts import PASSWORD
from tests.support.mail_server import mail_server
from tests.support.shell import sh
from tests.world.alerts.scene import Scene, anybody, going_on, nothing


async def outside_refuses(scene: Scene) -> None:
    held, address = reserve()
    port = address.rpartition(":")[2]
    listener, provider_address = reserve()
    provider_port = int(provider_address.rpartition(":")[2])
    async with AsyncExitStack() as stack:
        mail = await stack.enter_async_context(mail_server())
        settings = f"""
[delivery.smtp]
host = "localhost"
port = {mail.port}
tls = "off"
sender = "login@shop.test"

[audit.forward]
target = "webhook"
longest_retry = "1s"

[audit.forward.webhook]
url = "http://127.0.0.1:{port}/"
secrets = ["whsec_{"QUJD" * 8}"]
"""
        installation = await stack.enter_async_context(
            scene.installation(
                "mail",
                settings,
                replaced={
                    'channel = "folder"': (
                        'channel = "smtp"\nfirst_retry = "1s"\nlongest_retry = "1s"'
                    ),
                    '"http://127.0.0.1:8090"': f'"http://{provider_address}"',
                },
            )
        )
        replica = await installation.start()
        auth = AuthServiceStub(replica.channel("app"))

        async def request_codes() -> None:
            for _ in range(8):
                email, client = anybody()
                await auth.Register(
                    auth_pb.RegisterRequest(email=email, password=PASSWORD, client=client)
                )

        def begin_oauth() -> Awaitable[object]:
            return auth.BeginOAuth(
                auth_pb.BeginOAuthRequest(
                    provider="local",
                    redirect_uri="http://localhost:8080/callback",
                    client=anybody()[1],
                )
            )

        async def start_receiver() -> None:
            app = aiohttp.web.Application()
            app.router.add_post("/", _accepted)
            held.close()
            await _serve(stack, app, int(port))

        async def start_provider() -> None:
            listener.close()
            secret = installation.workspace.provider_secret.read_text()
            provider = DevProvider(f"http://{provider_address}", secret)
            await _serve(stack, provider.app(), provider_port)

        async def begin() -> None:
            await stack.enter_async_context(going_on(begin_oauth))

        async def refuse_for_now() -> None:
            mail.rcpt = "451 come again"
            await request_codes()

        async def refuse() -> None:
            mail.rcpt = "550 no"

        async def accept() -> None:
            mail.rcpt = "250 OK"

        async def freeze_logins() -> None:
            await sh(
                "authsvc incident freeze --method passkey --for 2h --reason test --yes",
                scene.folder,
                cwd=installation.folder,
            )

        async def messages() -> None:
            await scene.stage.try_alerts(
                installation,
                "the mail server says 451 to every recipient",
                ("AuthsvcMessagesDelayed",),
                cause=refuse_for_now,
                repair=refuse,
            )
            await scene.stage.try_alerts(
                installation,
                "the mail server says 550 to every recipient",
                ("AuthsvcMessagesAbandoned",),
                cause=request_codes,
                repair=accept,
            )

        async with asyncio.TaskGroup() as group:
            group.create_task(messages())
            group.create_task(
                scene.stage.try_alerts(
                    installation,
                    "nobody listens where audit events are sent",
                    ("AuthsvcAuditForwardingBehind",),
                    cause=nothing,
                    repair=start_receiver,
                )
            )
            group.create_task(
                scene.stage.try_alerts(
                    installation,
                    "the identity provider is down",
                    ("AuthsvcProviderUnavailable",),
                    cause=begin,
                    repair=start_provider,
                )
            )
            group.create_task(
                scene.stage.try_alerts(
                    installation,
                    "a freeze is forgotten",
                    ("AuthsvcLoginsFrozen",),
                    cause=freeze_logins,
                )
            )


async def _accepted(_request: aiohttp.web.Request) -> aiohttp.web.Response:
    return aiohttp.web.Response()


async def _serve(stack: AsyncExitStack, app: aiohttp.web.Application, port: int) -> None:
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await aiohttp.web.TCPSite(runner, "127.0.0.1", port).start()
