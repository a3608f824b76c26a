"""Valid requests about second factors, with what has to be there for them."""

import pyotp

from authsvc.v1 import account_service_pb2 as account_pb
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1.common_pb2 import ClientContext, Tokens
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.clock import FakeClock
from tests.support.passkeys import bearer
from tests.support.service import Service

CLIENT = ClientContext(ip="192.0.2.1", user_agent="Browser/1", device_id="phone")


async def confirm(service: Service, tokens: Tokens) -> account_pb.ConfirmTotpRequest:
    """Return the confirmation of an app; the service's clock stands still."""
    await service.prove(tokens.user_id)
    response = await service.account().EnrollTotp(
        account_pb.EnrollTotpRequest(), metadata=bearer(tokens)
    )
    return account_pb.ConfirmTotpRequest(
        factor_id=response.enrollment.factor_id,
        code=pyotp.TOTP(response.enrollment.secret).at(FakeClock().now()),
        client=CLIENT,
    )


async def remove(service: Service, tokens: Tokens) -> account_pb.RemoveFactorRequest:
    """Return the removal of an app that counts."""
    request = await confirm(service, tokens)
    await service.account().ConfirmTotp(request, metadata=bearer(tokens))
    return account_pb.RemoveFactorRequest(factor_id=request.factor_id)


async def generate(service: Service, tokens: Tokens) -> account_pb.GenerateRecoveryCodesRequest:
    """Return the request for new recovery codes of a user who may have some."""
    await remove(service, tokens)
    return account_pb.GenerateRecoveryCodesRequest()


async def verify(service: Service, tokens: Tokens) -> auth_pb.VerifyMfaRequest:
    """Return the second step of a login that was begun."""
    request = await confirm(service, tokens)
    confirmed = await service.account().ConfirmTotp(request, metadata=bearer(tokens))
    login = await service.auth().Login(auth_pb.LoginRequest(email=EMAIL, password=PASSWORD))
    return auth_pb.VerifyMfaRequest(
        mfa_token=login.mfa.mfa_token,
        recovery_code=confirmed.recovery_codes[0],
        client=CLIENT,
        trust_device=True,
    )
