"""Owns the chapter about a user's own account: its password, its data and its deletion."""

import json
import secrets
from collections import Counter

from authsvc.cli.demo.tour import Tour, bearer, new_email
from authsvc.v1 import account_service_pb2 as pb
from authsvc.v1 import auth_service_pb2, common_pb2


async def account(tour: Tour) -> None:
    """Show what users can do with their own accounts."""
    email, password = new_email("charles"), f"Difference-Engine-{secrets.token_hex(4)}"
    await tour.register(email, password, "Charles")
    tokens = (await tour.login(email, password)).tokens
    await _password(tour, tokens, email, password)
    await _events(tour, tokens)
    await _export(tour, tokens)
    await _delete(tour, tokens, email)


async def _password(tour: Tour, tokens: common_pb2.Tokens, email: str, password: str) -> None:
    tour.title("Charles changes his password")
    await tour.login(email, password)
    new = f"Analytical-Engine-{secrets.token_hex(4)}"

    def request(current: str) -> pb.ChangePasswordRequest:
        return pb.ChangePasswordRequest(
            current_password=current,
            new_password=new,
            end_other_sessions=True,
            client=tour.client,
        )

    stub = tour.account()
    guess = stub.ChangePassword(request("Wrong-Password-1"), metadata=bearer(tokens))
    await tour.rejected("somebody with his token guesses the current password", guess)
    answer = await stub.ChangePassword(request(password), metadata=bearer(tokens))
    tour.say("he knows it; other sessions ended", answer.ended_session_count)
    await tour.rejected("the old password", tour.login(email, password))


async def _events(tour: Tour, tokens: common_pb2.Tokens) -> None:
    tour.title("He reviews the recent events of his account")
    request = pb.ListSecurityEventsRequest(page_size=4)
    page = await tour.account().ListSecurityEvents(request, metadata=bearer(tokens))
    for event in page.events:
        tour.say(event.type, event.ip or "-")


async def _export(tour: Tour, tokens: common_pb2.Tokens) -> None:
    tour.title("He exports all data that the service holds on him")
    call = tour.account().ExportData(pb.ExportDataRequest(), metadata=bearer(tokens))
    lines = b"".join([chunk.json_lines async for chunk in call]).splitlines()
    for kind, count in Counter(json.loads(line)["kind"] for line in lines).items():
        tour.say(kind, count)


async def _delete(tour: Tour, tokens: common_pb2.Tokens, email: str) -> None:
    tour.title("He deletes his account")
    await tour.account().DeleteAccount(pb.DeleteAccountRequest(), metadata=bearer(tokens))
    request = auth_service_pb2.ValidateTokenRequest(access_token=tokens.access_token, strict=True)
    answer = await tour.auth("edge").ValidateToken(request)
    reason = common_pb2.InactiveReason.Name(answer.inactive_reason)
    tour.say("his access token", reason.removeprefix("INACTIVE_REASON_"))
    await tour.rejected(
        "his refresh token",
        tour.auth().RefreshTokens(
            auth_service_pb2.RefreshTokensRequest(refresh_token=tokens.refresh_token)
        ),
    )
    registered = await tour.register(email, f"Mechanical-Notation-{secrets.token_hex(4)}")
    tour.say("the address is free again; the next account has the user id", registered.user_id)
