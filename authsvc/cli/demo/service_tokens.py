"""Owns the chapter about tokens for services: bound to certificates, and exchanged."""

import grpc

from authsvc.cli.demo.tour import Tour, bearer, inactive
from authsvc.v1 import account_service_pb2, common_pb2
from authsvc.v1 import auth_service_pb2 as pb


async def service_tokens(tour: Tour) -> None:
    """Show how services act for themselves and for users."""
    tour.title("The service “app” requests a token of its own for the service “billing”")
    request = pb.IssueServiceTokenRequest(audience="billing", scopes=["invoices.read"])
    try:
        own = await tour.auth().IssueServiceToken(request)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
            raise
        tour.skip("the settings are too old to allow it")
        return
    answer = await _validate(tour, own.access_token, tour.thumbprint())
    tour.say("billing gets it with the certificate of", answer.claims.subject)
    answer = await _validate(tour, own.access_token, tour.thumbprint("edge"))
    tour.answer(
        "with another certificate", inactive(answer.inactive_reason), accepted=answer.active
    )
    await tour.rejected(
        "a token for an audience that the settings don't allow",
        tour.auth().IssueServiceToken(pb.IssueServiceTokenRequest(audience="payroll")),
    )

    tour.title("It calls “billing” for Ada, having exchanged her token for a narrower one")
    tokens = await tour.tokens()
    exchange = pb.ExchangeTokenRequest(
        subject_token=tokens.access_token, audience="billing", scopes=["read"]
    )
    narrow = (await tour.auth().ExchangeToken(exchange)).access_token
    claims = (await _validate(tour, narrow)).claims
    tour.say("its audience and scopes", f"{claims.audiences[0]}, {' '.join(claims.scopes)}")
    tour.say("its subject is Ada", claims.subject == tokens.user_id)
    tour.say("its actor", claims.actors[0])
    wider = pb.ExchangeTokenRequest(subject_token=narrow, scopes=["read", "write"])
    await tour.rejected("an exchange for more scopes", tour.auth().ExchangeToken(wider))
    acting = tour.account().GetAccount(
        account_service_pb2.GetAccountRequest(),
        metadata=bearer(common_pb2.Tokens(access_token=narrow)),
    )
    await tour.rejected("using it on her account", acting)

    tour.title("Ada logs out")
    await tour.auth().Logout(pb.LogoutRequest(refresh_token=tokens.refresh_token))
    for name, token, audience in (
        ("her token", tokens.access_token, ""),
        ("the exchanged token", narrow, "billing"),
    ):
        answer = await _validate(tour, token, audience=audience)
        tour.answer(name, inactive(answer.inactive_reason), accepted=answer.active)


async def _validate(
    tour: Tour, token: str, thumbprint: bytes = b"", audience: str = "billing"
) -> pb.ValidateTokenResponse:
    request = pb.ValidateTokenRequest(
        access_token=token, audience=audience, certificate_thumbprint=thumbprint, strict=True
    )
    return await tour.auth("edge").ValidateToken(request)
