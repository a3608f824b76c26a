"""Owns the chapter on one-time codes: a proved address, a login without password, a new password.

The client "issuer" has the codes returned, which others have sent to the user.
"""

from typing import TYPE_CHECKING

from authsvc.cli.demo.tour import Tour, new_email
from authsvc.v1 import auth_service_pb2
from authsvc.v1.common_pb2 import DELIVERY_RETURN

if TYPE_CHECKING:
    from authsvc.v1.auth_service_pb2_grpc import AuthServiceAsyncStub

_WRONG = "0000 0000"
_PASSWORD = "Forgotten-Engine-1843"  # noqa: S105 - of nobody, in a demonstration
_NEW_PASSWORD = "Remembered-Engine-1991"  # noqa: S105 - as above


async def codes(tour: Tour) -> None:
    """Verify an address, log in by a code, and replace a forgotten password."""
    grace = new_email("grace")
    issuer = tour.auth("issuer")
    await _verify(tour, issuer, grace)
    await _log_in(tour, issuer, grace)
    await _recover(tour, issuer, grace)


async def _verify(tour: Tour, issuer: "AuthServiceAsyncStub", email: str) -> None:
    tour.title("Grace proves that her address is hers")
    registered = await issuer.Register(
        auth_service_pb2.RegisterRequest(
            email=email, password=_PASSWORD, client=tour.client, delivery=DELIVERY_RETURN
        )
    )
    tour.say("the code that would be sent", registered.code)
    request = auth_service_pb2.VerifyEmailRequest(email=email, code=_WRONG, client=tour.client)
    await tour.refused("a guess", issuer.VerifyEmail(request))
    request.code = f"{registered.code[:4]} {registered.code[4:]}"
    await issuer.VerifyEmail(request)
    tour.say("the code, typed with a blank", "verified")
    await tour.refused("the same code again", issuer.VerifyEmail(request))


async def _log_in(tour: Tour, issuer: "AuthServiceAsyncStub", email: str) -> None:
    tour.title("She logs in without her password")
    ask = auth_service_pb2.RequestLoginCodeRequest(
        email=email, client=tour.client, delivery=DELIVERY_RETURN
    )
    asked = await issuer.RequestLoginCode(ask)
    tour.say("her code, for this challenge only", f"{asked.code} for {asked.challenge_id}")
    await tour.refused("another one right away", issuer.RequestLoginCode(ask))
    login = auth_service_pb2.LoginWithCodeRequest(
        challenge_id=asked.challenge_id, code=asked.code, client=tour.client
    )
    answer = await issuer.LoginWithCode(login)
    tour.say("logged in, session", answer.tokens.session_id)
    await tour.refused("the code once more", issuer.LoginWithCode(login))
    ask.email = new_email("nobody")
    nobody = await issuer.RequestLoginCode(ask)
    tour.say("an address of nobody gets a code, too", nobody.code)
    login.challenge_id, login.code = nobody.challenge_id, nobody.code
    await tour.refused("which never works", issuer.LoginWithCode(login))


async def _recover(tour: Tour, issuer: "AuthServiceAsyncStub", email: str) -> None:
    tour.title("She forgot her password")
    session = (await tour.login(email, _PASSWORD)).tokens
    asked = await issuer.RequestPasswordReset(
        auth_service_pb2.RequestPasswordResetRequest(
            email=email, client=tour.client, delivery=DELIVERY_RETURN
        )
    )
    tour.say("the code, longer as it also works while she is locked out", asked.code)
    reset = auth_service_pb2.ResetPasswordRequest(
        email=email, code=asked.code, new_password=email, client=tour.client
    )
    await tour.refused("a weak password, which does not burn the code", issuer.ResetPassword(reset))
    reset.new_password = _NEW_PASSWORD
    await issuer.ResetPassword(reset)
    tour.say("a good one", "set, and all sessions have ended")
    refresh = auth_service_pb2.RefreshTokensRequest(refresh_token=session.refresh_token)
    await tour.refused("her old session", issuer.RefreshTokens(refresh))
    await tour.refused("her old password", tour.login(email, _PASSWORD))
    await tour.login(email, _NEW_PASSWORD)
    tour.say("her new password", "logged in")
