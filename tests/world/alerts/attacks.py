"""Attacks, which are detected, and a caller that does not say where its users are."""

from itertools import count

from authsvc.models.incidents import DetectionName
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1.admin_service_pb2 import DisableUserRequest, EnableUserRequest
from authsvc.v1.admin_service_pb2_grpc import AdminServiceStub
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.common_pb2 import ClientContext
from tests.support.accounts import WRONG
from tests.support.probe import outcome
from tests.support.shell import sh
from tests.world.alerts.installation import Installation, Replica
from tests.world.alerts.scene import Scene, anybody, logged_in, registered

_FEW, _MANY = 4, 12
_THRESHOLDS = dict.fromkeys(DetectionName, _FEW) | {
    DetectionName.CREDENTIAL_STUFFING: _MANY,
    DetectionName.KEY_COMPROMISE: 1,
}
_SETTINGS = "".join(
    f"[detections.{name.value}]\nthreshold = {threshold}\n"
    for name, threshold in _THRESHOLDS.items()
)


class _Attacker:
    """Whoever attacks an installation; `begin` makes the users."""

    def __init__(self, scene: Scene, installation: Installation, replica: Replica) -> None:
        self._scene = scene
        self._installation = installation
        self._replica = replica
        self._auth = AuthServiceStub(replica.channel("app"))
        self._admin = AdminServiceStub(replica.channel("admin"))
        self._users: list[str] = []
        self._user_ids: list[str] = []

    async def begin(self) -> None:
        numbers = count(1)
        for _ in range(_FEW):
            email = await registered(self._replica)
            phone = ClientContext(ip=f"192.0.2.{next(numbers)}", device_id="phone")
            tokens = await logged_in(self._replica, email, phone)
            self._users.append(email)
            self._user_ids.append(tokens.user_id)

    async def spray(self) -> None:
        for email in self._users:
            await self._guess(email, ClientContext(ip="198.51.100.7"))

    async def stuff(self) -> None:
        for _ in range(2 * _MANY):
            await self._guess(*anybody())

    async def reset(self) -> None:
        for email in self._users:
            request = auth_pb.RequestPasswordResetRequest(email=email, client=anybody()[1])
            await self._auth.RequestPasswordReset(request)

    async def reuse(self) -> None:
        for email in self._users:
            first = latest = (await logged_in(self._replica, email)).refresh_token
            for _ in range(2):
                request = auth_pb.RefreshTokensRequest(refresh_token=latest)
                latest = (await self._auth.RefreshTokens(request)).tokens.refresh_token
            request = auth_pb.RefreshTokensRequest(refresh_token=first)
            assert await outcome(self._auth.RefreshTokens(request)) == "REFRESH_TOKEN_REUSED"

    async def arrive(self) -> None:
        for number, email in enumerate(self._users):
            device = ClientContext(ip="203.0.113.9", device_id=f"new{number}")
            await logged_in(self._replica, email, device)

    async def administer(self) -> None:
        for user_id in self._user_ids:
            await self._admin.DisableUser(DisableUserRequest(user_id=user_id))
        for user_id in self._user_ids:
            await self._admin.EnableUser(EnableUserRequest(user_id=user_id))

    async def revoke_key(self) -> None:
        command = "authsvc incident revoke-key active --reason test --yes"
        await sh(command, self._scene.folder, cwd=self._installation.folder)

    async def _guess(self, email: str, client: ClientContext) -> None:
        request = auth_pb.LoginRequest(email=email, password=WRONG, client=client)
        assert await outcome(self._auth.Login(request)) != "OK"


async def attacks(scene: Scene) -> None:
    """Attack in each way that is detected, one after the other."""
    async with scene.installation("attacked", _SETTINGS) as installation:
        replica = await installation.start(AUTHSVC_TOKENS__REFRESH_GRACE="0s")
        attacker = _Attacker(scene, installation, replica)
        await attacker.begin()
        for name, fault, cause in (
            ("NewDevices", "users log in on new devices from one network", attacker.arrive),
            ("PasswordSpraying", "wrong passwords at many accounts", attacker.spray),
            ("CredentialStuffing", "logins of unknown addresses, from everywhere", attacker.stuff),
            ("MassPasswordReset", "password resets of many accounts", attacker.reset),
            ("RefreshReuse", "old refresh tokens of many users", attacker.reuse),
            ("AdminVolume", "one caller disables and enables users", attacker.administer),
            ("KeyCompromise", "the signing key is revoked", attacker.revoke_key),
        ):
            await scene.stage.try_alerts(
                installation,
                fault,
                [f"Authsvc{name}"],
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
