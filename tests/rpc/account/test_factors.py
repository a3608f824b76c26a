"""The RPCs about a user's own factors, from their callers' side."""

from datetime import UTC
from typing import Any

import grpc
import pyotp
import pytest

from authsvc.v1 import account_service_pb2 as pb
from authsvc.v1.common_pb2 import ClientContext, Tokens, TotpEnrollment
from tests.support.clock import FakeClock
from tests.support.passkeys import NOBODY, bearer
from tests.support.probe import failure, outcome, reason_of
from tests.support.service import Service, fields_of

NAMES = ("EnrollTotp", "ConfirmTotp", "RemoveFactor", "GenerateRecoveryCodes", "ListFactors")


class Owner:
    """A logged-in user, and the calls about the user's factors."""

    def __init__(self, service: Service, tokens: Tokens) -> None:
        self._account = service.account()
        self.metadata = bearer(tokens)

    async def list(self) -> pb.ListFactorsResponse:
        return await self._account.ListFactors(pb.ListFactorsRequest(), metadata=self.metadata)

    async def has_none(self) -> bool:
        found = await self.list()
        return not found.factors and not found.recovery_codes_left

    async def enroll(self, name: str = "") -> TotpEnrollment:
        request = pb.EnrollTotpRequest(name=name)
        return (await self._account.EnrollTotp(request, metadata=self.metadata)).enrollment

    def confirm(self, factor_id: str, code: str) -> Any:
        client = ClientContext(ip="192.0.2.1")
        request = pb.ConfirmTotpRequest(factor_id=factor_id, code=code, client=client)
        return self._account.ConfirmTotp(request, metadata=self.metadata)

    def remove(self, factor_id: str) -> Any:
        request = pb.RemoveFactorRequest(factor_id=factor_id)
        return self._account.RemoveFactor(request, metadata=self.metadata)

    def generate(self) -> Any:
        request = pb.GenerateRecoveryCodesRequest()
        return self._account.GenerateRecoveryCodes(request, metadata=self.metadata)


@pytest.mark.fast
async def test_factor_lifecycle(timed: Service, clock: FakeClock) -> None:
    ada = Owner(timed, await timed.proved_session())
    assert await ada.has_none()
    assert await outcome(ada.generate()) == "FACTOR_NOT_FOUND"
    enrollment = await ada.enroll("Phone 📱")
    app = pyotp.parse_uri(enrollment.otpauth_uri)
    assert isinstance(app, pyotp.TOTP)
    assert app.secret == enrollment.secret
    assert await ada.has_none()
    codes = (await ada.confirm(enrollment.factor_id, app.at(clock.now()))).recovery_codes
    assert len(codes) == 10
    (factor,) = (await ada.list()).factors
    assert (factor.factor_id, factor.kind) == (enrollment.factor_id, "totp")
    assert factor.name == "Phone 📱"
    assert factor.create_time.ToDatetime(UTC) == clock.now()
    assert not factor.HasField("last_use_time")
    assert (await ada.list()).recovery_codes_left == 10
    assert set((await ada.generate()).recovery_codes).isdisjoint(codes)
    await ada.remove(factor.factor_id)
    assert await ada.has_none()
    assert await outcome(ada.remove(factor.factor_id)) == "FACTOR_NOT_FOUND"


async def test_wrong_codes_are_limited(timed: Service, clock: FakeClock) -> None:
    ada = Owner(timed, await timed.proved_session())
    enrollment = await ada.enroll()
    app = pyotp.TOTP(enrollment.secret)
    wrong = f"{(int(app.at(clock.now())) + 500_000) % 1_000_000:06}"
    error = await failure(ada.confirm(enrollment.factor_id, wrong))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAUTHENTICATED, "CODE_INVALID")
    outcomes = [await outcome(ada.confirm(enrollment.factor_id, wrong)) for _ in range(6)]
    assert outcomes == ["CODE_INVALID"] * 4 + ["TOO_MANY_ATTEMPTS"] * 2
    right = ada.confirm(enrollment.factor_id, app.at(clock.now()))
    assert await outcome(right) == "TOO_MANY_ATTEMPTS"


async def test_factors_are_accessible_only_to_their_user(timed: Service, clock: FakeClock) -> None:
    ada = Owner(timed, await timed.proved_session())
    eve = Owner(timed, await timed.proved_session("eve@example.test"))
    enrollment = await ada.enroll()
    code = pyotp.TOTP(enrollment.secret).at(clock.now())
    for factor_id in (enrollment.factor_id, NOBODY):
        error = await failure(eve.confirm(factor_id, code))
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.NOT_FOUND, "FACTOR_NOT_FOUND")
    await ada.confirm(enrollment.factor_id, code)
    assert await outcome(eve.remove(enrollment.factor_id)) == "FACTOR_NOT_FOUND"
    assert await eve.has_none()


async def test_changes_require_recent_login(timed: Service, clock: FakeClock) -> None:
    ada = Owner(timed, await timed.proved_session())
    enrollment = await ada.enroll()
    clock.advance(601)
    code = pyotp.TOTP(enrollment.secret).at(clock.now())
    for call in (
        ada.enroll(),
        ada.confirm(enrollment.factor_id, code),
        ada.remove(enrollment.factor_id),
        ada.generate(),
    ):
        assert await outcome(call) == "REAUTHENTICATION_REQUIRED"
    assert await ada.has_none()


@pytest.mark.parametrize("name", NAMES)
async def test_calls_require_active_token_and_app_role(service: Service, name: str) -> None:
    tokens = await service.proved_session()
    request = getattr(pb, f"{name}Request")()
    assert await outcome(getattr(service.account(), name)(request)) == "BEARER_INVALID"
    for caller in ("edge", "issuer", "admin", "observer"):
        call = getattr(service.account(caller), name)(request, metadata=bearer(tokens))
        assert await outcome(call) == "CALLER_NOT_ALLOWED"


@pytest.mark.parametrize(
    ("name", "field", "fields"),
    [
        ("EnrollTotp", "name", {"name": "x" * 65}),
        ("EnrollTotp", "name", {"name": "\0"}),
        ("ConfirmTotp", "factor_id", {"factor_id": "x", "code": "123456"}),
        ("ConfirmTotp", "code", {"factor_id": NOBODY, "code": ""}),
        ("ConfirmTotp", "code", {"factor_id": NOBODY, "code": "1" * 65}),
        ("RemoveFactor", "factor_id", {"factor_id": NOBODY.upper()}),
    ],
)
async def test_invalid_fields_are_named(
    service: Service, name: str, field: str, fields: dict[str, str]
) -> None:
    tokens = await service.proved_session()
    request = getattr(pb, f"{name}Request")(**fields)
    error = await failure(getattr(service.account(), name)(request, metadata=bearer(tokens)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fields_of(error) == [field]
