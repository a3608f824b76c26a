"""Owns the chapter about API keys: creation, use within limits, revocation."""

from google.protobuf.duration_pb2 import Duration

from authsvc.cli.demo.tour import Tour, bearer, inactive
from authsvc.v1 import account_service_pb2 as pb
from authsvc.v1 import auth_service_pb2
from authsvc.v1.common_pb2 import INACTIVE_REASON_RATE_LIMITED

_DAYS = 24 * 60 * 60


async def api_keys(tour: Tour) -> None:
    """Show the life cycle of an API key."""
    tokens = await tour.tokens()
    tour.title("Ada creates an API key for her nightly job")
    request = pb.CreateApiKeyRequest(
        name="nightly job", scopes=["read"], lifetime=Duration(seconds=30 * _DAYS), policy="upload"
    )
    account = tour.account()
    created = await account.CreateApiKey(request, metadata=bearer(tokens))
    tour.say("the key, shown only this once", f"{created.key.prefix}…")
    tour.say("its scopes", ", ".join(created.key.scopes))
    tour.say("it expires", created.key.expire_time.ToJsonString())
    too_much = pb.CreateApiKeyRequest(name="more", scopes=["admin"])
    await tour.rejected(
        "a key with more scopes than she has",
        account.CreateApiKey(too_much, metadata=bearer(tokens)),
    )

    tour.title("The job presents it to the gateway")
    answer = await _validate(tour, created.api_key, "read")
    tour.say("it reads as the user", answer.user_id)
    answer = await _validate(tour, created.api_key, "write")
    tour.answer("it tries to write", inactive(answer.inactive_reason), accepted=answer.active)
    typo = created.api_key[:-1] + ("0" if created.api_key[-1] != "0" else "1")
    answer = await _validate(tour, typo, "read")
    tour.answer("one wrong character", inactive(answer.inactive_reason), accepted=answer.active)
    uses = 0
    while answer.inactive_reason != INACTIVE_REASON_RATE_LIMITED and uses < 100:
        answer = await _validate(tour, created.api_key, "read")
        uses += answer.active
    wait = f"{answer.retry_after.ToMilliseconds() / 1_000:.0f} s"
    tour.answer(
        f"after {uses} more uses its own limit is reached; retry after",
        wait,
        accepted=answer.active,
    )

    tour.title("She revokes it")
    revoke = pb.RevokeApiKeyRequest(key_id=created.key.key_id)
    await account.RevokeApiKey(revoke, metadata=bearer(tokens))
    answer = await _validate(tour, created.api_key, "read")
    tour.answer("the job tries again", inactive(answer.inactive_reason), accepted=answer.active)
    listed = await account.ListApiKeys(pb.ListApiKeysRequest(), metadata=bearer(tokens))
    for key in listed.keys:
        tour.say(key.name, f"revoked {key.revoke_time.ToJsonString()}")


async def _validate(
    tour: Tour, api_key: str, scope: str
) -> auth_service_pb2.ValidateApiKeyResponse:
    request = auth_service_pb2.ValidateApiKeyRequest(api_key=api_key, required_scopes=[scope])
    return await tour.auth("edge").ValidateApiKey(request)
