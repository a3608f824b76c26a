"""Owns the chapter about one-time codes: e-mail verification, passwordless login, password reset.

As the client "issuer", it has the codes returned; for other clients the service sends them.
"""

from typing import TYPE_CHECKING

from authsvc.cli.demo.tour import Tour, new_email
from authsvc.v1 import auth_service_pb2
from authsvc.v1.common_pb2 import DELIVERY_RETURN

if TYPE_CHECKING:
    from authsvc.v1.auth_service_pb2_grpc import AuthServiceAsyncStub

_WRONG = "0000 0000"
_PASSWORD = "Forgotten-Engine-1843"  # noqa: S105 - only for the demo
_NEW_PASSWORD = "Remembered-Engine-1991"  # noqa: S105 - only for the demo


async def codes(tour: Tour) -> None:
    """Verify an address, log in with a code, and reset a forgotten password."""
    grace = new_email("grace")
    issuer = tour.auth("issuer")
    await _verify(tour, issuer, grace)
    await _squat(tour, issuer)
    await _log_in(tour, issuer, grace)
    await _recover(tour, issuer, grace)


async def _verify(tour: Tour, issuer: "AuthServiceAsyncStub", email: str) -> None:
    tour.title("Grace verifies her address")
    registered = await issuer.Register(
        auth_service_pb2.RegisterRequest(
            email=email, password=_PASSWORD, client=tour.client, delivery=DELIVERY_RETURN
        )
    )
    tour.say("the code that she would be sent", registered.code)
    request = auth_service_pb2.VerifyEmailRequest(
        email=email,
        code=_WRONG,
        client=tour.client,
        registration_token=registered.registration_token,
    )
    await tour.rejected("a guess", issuer.VerifyEmail(request))
    request.code = f"{registered.code[:4]} {registered.code[4:]}"
    await issuer.VerifyEmail(request)
    tour.say("the code, typed with a space, and what shows that she registered", "verified")
    await tour.rejected("the same code again", issuer.VerifyEmail(request))


async def _squat(tour: Tour, issuer: "AuthServiceAsyncStub") -> None:
    tour.title("Somebody registers with Hedy's address before she does")
    hedy = new_email("hedy")
    registered = await issuer.Register(
        auth_service_pb2.RegisterRequest(
            email=hedy, password=_PASSWORD, client=tour.client, delivery=DELIVERY_RETURN
        )
    )
    squatter = (await tour.login(hedy, _PASSWORD)).tokens
    verified = await issuer.VerifyEmail(
        auth_service_pb2.VerifyEmailRequest(email=hedy, code=registered.code, client=tour.client)
    )
    tour.say("Hedy enters the code; what was set before is removed", verified.credentials_removed)
    refresh = auth_service_pb2.RefreshTokensRequest(refresh_token=squatter.refresh_token)
    await tour.rejected("the squatter's session", issuer.RefreshTokens(refresh))
    await tour.rejected("the squatter's password", tour.login(hedy, _PASSWORD))


async def _log_in(tour: Tour, issuer: "AuthServiceAsyncStub", email: str) -> None:
    tour.title("She logs in without her password")
    ask = auth_service_pb2.RequestLoginCodeRequest(
        email=email, client=tour.client, delivery=DELIVERY_RETURN
    )
    asked = await issuer.RequestLoginCode(ask)
    tour.say("her code, for this challenge only", f"{asked.code} for {asked.challenge_id}")
    await tour.rejected("another code right away", issuer.RequestLoginCode(ask))
    login = auth_service_pb2.LoginWithCodeRequest(
        challenge_id=asked.challenge_id, code=asked.code, client=tour.client
    )
    answer = await issuer.LoginWithCode(login)
    tour.say("logged in, session", answer.tokens.session_id)
    await tour.rejected("the same code again", issuer.LoginWithCode(login))
    ask.email = new_email("nobody")
    nobody = await issuer.RequestLoginCode(ask)
    tour.say("an address without an account gets a code, too", nobody.code)
    login.challenge_id, login.code = nobody.challenge_id, nobody.code
    await tour.rejected("but it never works", issuer.LoginWithCode(login))


async def _recover(tour: Tour, issuer: "AuthServiceAsyncStub", email: str) -> None:
    tour.title("She has forgotten her password")
    session = (await tour.login(email, _PASSWORD)).tokens
    asked = await issuer.RequestPasswordReset(
        auth_service_pb2.RequestPasswordResetRequest(
            email=email, client=tour.client, delivery=DELIVERY_RETURN
        )
    )
    tour.say("the code, longer because it works even while she is locked out", asked.code)
    reset = auth_service_pb2.ResetPasswordRequest(
        email=email, code=asked.code, new_password=email, client=tour.client
    )
    await tour.rejected("a weak password, which leaves the code valid", issuer.ResetPassword(reset))
    reset.new_password = _NEW_PASSWORD
    await issuer.ResetPassword(reset)
    tour.say("a strong one", "set, and all sessions have ended")
    refresh = auth_service_pb2.RefreshTokensRequest(refresh_token=session.refresh_token)
    await tour.rejected("her old session", issuer.RefreshTokens(refresh))
    await tour.rejected("her old password", tour.login(email, _PASSWORD))
    await tour.login(email, _NEW_PASSWORD)
    tour.say("her new password", "logged in")
