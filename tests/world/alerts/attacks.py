"""Attacks, which are detected, and a caller that does not say where its users are."""

import asyncio
from itertools import count

from authsvc.models.incidents import DetectionName
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1.admin_service_pb2 import DisableUserRequest, EnableUserRequest
from authsvc.v1.admin_service_pb2_grpc import AdminServiceStub
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.common_pb2 import ClientContext
from tests.support.accounts import PASSWORD, WRONG
from tests.support.probe import outcome
from tests.support.shell import sh
from tests.world.alerts.scene import Scene, anybody, logged_in, registered

_THRESHOLD = 4
_MANY = 12
_SETTINGS = "".join(
    f"[detections.{name.value}]\nthreshold = {1 if name is DetectionName.KEY_COMPROMISE else many}\n"
    for name in DetectionName
    for many in [_MANY if name is DetectionName.CREDENTIAL_STUFFING else _THRESHOLD]
)
_FAULTS = {
    DetectionName.PASSWORD_SPRAYING: "wrong passwords at many accounts from one network",
    DetectionName.CREDENTIAL_STUFFING: "logins of unknown addresses from many networks",
    DetectionName.MASS_PASSWORD_RESET: "password resets of many accounts",
    DetectionName.REFRESH_REUSE: "old refresh tokens of many users",
    DetectionName.NEW_DEVICES: "logins of many users on new devices from one network",
    DetectionName.ADMIN_VOLUME: "one caller disables many users",
    DetectionName.KEY_COMPROMISE: "the signing key is revoked",
}


async def attacks(scene: Scene) -> None:
    """Attack in each way that is detected, one after the other."""
    async with scene.installation("attacked", _SETTINGS) as installation:
        replica = await installation.start(AUTHSVC_TOKENS__REFRESH_GRACE="0s")
        auth = AuthServiceStub(replica.channel("app"))
        admin = AdminServiceStub(replica.channel("admin"))
        numbers = count(1)
        users = [await registered(replica) for _ in range(_THRESHOLD)]
        user_ids = []
        for user in users:
            tokens = await logged_in(replica, user, _device(f"192.0.2.{next(numbers)}", "phone"))
            user_ids.append(tokens.user_id)

        async def spray() -> None:
            for user in users:
                client = ClientContext(ip="198.51.100.7")
                request = auth_pb.LoginRequest(email=user, password=WRONG, client=client)
                assert await outcome(auth.Login(request)) != "OK"

        async def stuff() -> None:
            for _ in range(2 * _MANY):
                email, client = anybody()
                request = auth_pb.LoginRequest(email=email, password=WRONG, client=client)
                assert await outcome(auth.Login(request)) != "OK"

        async def reset() -> None:
            for user in users:
                await auth.RequestPasswordReset(
                    auth_pb.RequestPasswordResetRequest(email=user, client=anybody()[1])
                )

        async def reuse() -> None:
            for user in users:
                first = (await logged_in(replica, user)).refresh_token
                latest = first
                for _ in range(2):
                    request = auth_pb.RefreshTokensRequest(refresh_token=latest)
                    latest = (await auth.RefreshTokens(request)).tokens.refresh_token
                request = auth_pb.RefreshTokensRequest(refresh_token=first)
                assert await outcome(auth.RefreshTokens(request)) == "REFRESH_TOKEN_REUSED"

        async def arrive() -> None:
            for number, user in enumerate(users):
                await logged_in(replica, user, _device("203.0.113.9", f"new{number}"))

        async def administer() -> None:
            for user_id in user_ids:
                await admin.DisableUser(DisableUserRequest(user_id=user_id))
            for user_id in user_ids:
                await admin.EnableUser(EnableUserRequest(user_id=user_id))

        async def revoke() -> None:
            await sh(
                "authsvc incident revoke-key active --reason test --yes",
                scene.folder,
                cwd=installation.folder,
            )

        causes = {
            DetectionName.NEW_DEVICES: arrive,
            DetectionName.PASSWORD_SPRAYING: spray,
            DetectionName.CREDENTIAL_STUFFING: stuff,
            DetectionName.MASS_PASSWORD_RESET: reset,
            DetectionName.REFRESH_REUSE: reuse,
            DetectionName.ADMIN_VOLUME: administer,
            DetectionName.KEY_COMPROMISE: revoke,
        }
        # The commands of these runbooks are tried by `tests/docs`.
        for name, cause in causes.items():
            await scene.stage.try_alerts(
                installation,
                _FAULTS[name],
                [f"Authsvc{name.value.title().replace('_', '')}"],
                cause=cause,
                is_tried_elsewhere=True,
            )


async def caller_hides_its_users(scene: Scene) -> None:
    async with scene.installation("hidden") as installation:
        replica = await installation.start()

        async def log_in() -> None:
            request = auth_pb.LoginRequest(email=anybody()[0], password=WRONG)
            await outcome(AuthServiceStub(replica.channel("app")).Login(request))

        async def restart() -> None:
            await replica.end()
            await installation.restart(replica)

        await scene.stage.try_alerts(
            installation,
            "a caller passes no client.ip",
            ("AuthsvcNoClientAddress",),
            cause=log_in,
            repair=restart,
        )


def _device(ip: str, device_id: str) -> ClientContext:
    return ClientContext(ip=ip, device_id=device_id)
