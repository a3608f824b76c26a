"""Owns the chapter of the tour about tokens for services: bound, and exchanged."""

import grpc

from authsvc.cli.demo.tour import Tour, bearer, inactive
from authsvc.v1 import account_service_pb2, common_pb2
from authsvc.v1 import auth_service_pb2 as pb


async def service_tokens(tour: Tour) -> None:
    """Tell how services speak for themselves, and for users."""
    tour.title("The service app asks for a token of its own, for the service billing")
    request = pb.IssueServiceTokenRequest(audience="billing", scopes=["invoices.read"])
    try:
        own = await tour.auth().IssueServiceToken(request)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
            raise
        tour.say("the settings don't let it: they are older than this chapter", "-", good=False)
        return
    answer = await _judge(tour, own.access_token, tour.thumbprint())
    tour.say("billing sees it with the certificate of", answer.claims.subject)
    answer = await _judge(tour, own.access_token, tour.thumbprint("edge"))
    tour.say("with another one", inactive(answer.inactive_reason), good=False)
    await tour.refused(
        "a token for somebody whom the settings don't name",
        tour.auth().IssueServiceToken(pb.IssueServiceTokenRequest(audience="payroll")),
    )

    tour.title("It calls billing for Ada, with her token exchanged for a narrower one")
    tokens = await tour.tokens()
    exchange = pb.ExchangeTokenRequest(
        subject_token=tokens.access_token, audience="billing", scopes=["read"]
    )
    narrow = (await tour.auth().ExchangeToken(exchange)).access_token
    claims = (await _judge(tour, narrow)).claims
    tour.say("it is for", f"{claims.audiences[0]}, to {' '.join(claims.scopes)}")
    tour.say("it is Ada's", claims.subject == tokens.user_id)
    tour.say("in the hands of", claims.actors[0])
    wider = pb.ExchangeTokenRequest(subject_token=narrow, scopes=["read", "write"])
    await tour.refused("billing asks for more", tour.auth().ExchangeToken(wider))
    acting = tour.account().GetAccount(
        account_service_pb2.GetAccountRequest(),
        metadata=bearer(common_pb2.Tokens(access_token=narrow)),
    )
    await tour.refused("it acts on her account", acting)

    tour.title("Ada logs out")
    await tour.auth().Logout(pb.LogoutRequest(refresh_token=tokens.refresh_token))
    for name, token, audience in (
        ("her token", tokens.access_token, ""),
        ("billing's", narrow, "billing"),
    ):
        answer = await _judge(tour, token, audience=audience)
        tour.say(name, inactive(answer.inactive_reason), good=False)


async def _judge(
    tour: Tour, token: str, thumbprint: bytes = b"", audience: str = "billing"
) -> pb.ValidateTokenResponse:
    request = pb.ValidateTokenRequest(
        access_token=token, audience=audience, certificate_thumbprint=thumbprint, strict=True
    )
    return await tour.auth("edge").ValidateToken(request)
