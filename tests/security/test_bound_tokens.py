"""Tokens in the wrong hands: stolen from a service, or passed on too far."""

import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from authsvc.config import Settings
from authsvc.v1 import account_service_pb2 as account_pb
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from tests.support import logs
from tests.support.certificates import Authority, Certificate
from tests.support.probe import identity_of, outcome
from tests.support.service import Service, StartService


def thumbprint(certificate: Certificate) -> bytes:
    return hashlib.sha256(certificate.parsed.public_bytes(Encoding.DER)).digest()


async def service_token(service: Service, certificate: Certificate, **request: Any) -> str:
    """Return a service token for the holder of a certificate."""
    stub = AuthServiceStub(service.clients.open(certificate))
    response = await stub.IssueServiceToken(pb.IssueServiceTokenRequest(**request))
    return response.access_token


async def test_stolen_service_token_is_useless(service: Service, authority: Authority) -> None:
    app, edge = (authority.caller(identity_of(role)) for role in ("app", "edge"))
    token = await service_token(service, app)
    judged = {}
    for name, shown in {
        "its own": thumbprint(app),
        "none": b"",
        "the thief's": thumbprint(edge),
        "another one of the same name": thumbprint(authority.caller(identity_of("app"))),
        "one bit off": bytes([thumbprint(app)[0] ^ 1]) + thumbprint(app)[1:],
        "zeros": bytes(32),
    }.items():
        for strict in (False, True):
            judged[name, strict] = await service.judge_token(
                token, certificate_thumbprint=shown, strict=strict
            )
    expected = dict.fromkeys(judged, "CERTIFICATE_MISMATCH")
    assert judged == expected | {("its own", False): "", ("its own", True): ""}
    # A batch carries no certificate.
    response = await service.auth("edge").BatchValidateTokens(
        pb.BatchValidateTokensRequest(access_tokens=[token])
    )
    assert not response.results[0].active
    assert not response.results[0].HasField("claims")


async def test_stolen_service_token_cannot_be_exchanged(
    service: Service, authority: Authority
) -> None:
    app = authority.caller(identity_of("app"))
    token = await service_token(service, app)
    for certificate in (app, authority.caller(identity_of("app"))):
        stub = AuthServiceStub(service.clients.open(certificate))
        call = stub.ExchangeToken(pb.ExchangeTokenRequest(subject_token=token))
        assert await outcome(call) == "CREDENTIALS_INVALID"


ACCOUNT_CALLS = {
    "GetAccount": account_pb.GetAccountRequest(),
    "CreateApiKey": account_pb.CreateApiKeyRequest(name="ci"),
    "ListApiKeys": account_pb.ListApiKeysRequest(),
    "ChangePassword": account_pb.ChangePasswordRequest(),
    "ExportData": account_pb.ExportDataRequest(),
    "DeleteAccount": account_pb.DeleteAccountRequest(),
}


@pytest.mark.parametrize("rpc", ACCOUNT_CALLS)
async def test_exchanged_tokens_cannot_act_on_account(
    rpc: str, service: Service, authority: Authority
) -> None:
    tokens = await service.new_session()
    exchanged = await service.auth().ExchangeToken(
        pb.ExchangeTokenRequest(subject_token=tokens.access_token)
    )
    again = await service.auth().ExchangeToken(
        pb.ExchangeTokenRequest(subject_token=exchanged.access_token)
    )
    own = await service_token(service, authority.caller(identity_of("app")))
    assert await service.judge_token(again.access_token) == ""
    for token in (exchanged.access_token, again.access_token, own):
        call = getattr(service.account(), rpc)(
            ACCOUNT_CALLS[rpc], metadata=(("authorization", f"Bearer {token}"),)
        )
        ended = await outcome(call if rpc != "ExportData" else call.read())
        assert ended == "BEARER_INVALID"
    assert await service.judge_token(tokens.access_token, strict=True) == ""


async def test_api_keys_and_tokens_are_not_interchangeable(
    service: Service, authority: Authority
) -> None:
    tokens = await service.new_session()
    created = await service.account().CreateApiKey(
        account_pb.CreateApiKeyRequest(name="ci"),
        metadata=(("authorization", f"Bearer {tokens.access_token}"),),
    )
    key = created.api_key
    assert await service.judge_token(key) == "MALFORMED"
    assert await service.judge_session(key) == "MALFORMED"
    assert (
        await outcome(service.auth().ExchangeToken(pb.ExchangeTokenRequest(subject_token=key)))
        == "CREDENTIALS_INVALID"
    )
    assert (
        await outcome(
            service.account().GetAccount(
                account_pb.GetAccountRequest(), metadata=(("authorization", f"Bearer {key}"),)
            )
        )
        == "BEARER_INVALID"
    )
    own = await service_token(service, authority.caller(identity_of("app")))
    for token in (tokens.access_token, tokens.refresh_token, tokens.session_token, own):
        answer = await service.auth().ValidateApiKey(pb.ValidateApiKeyRequest(api_key=token))
        assert not answer.active


async def test_forwarded_certificate_header_is_ignored(
    service: Service, authority: Authority
) -> None:
    stranger = authority.caller("spiffe://authsvc.test/stranger")
    stub = AuthServiceStub(service.clients.open(stranger))
    call = stub.IssueServiceToken(
        pb.IssueServiceTokenRequest(), metadata=(("x-forwarded-client-cert", "By=app"),)
    )
    assert await outcome(call) == "CALLER_NOT_ALLOWED"


async def test_log_contains_no_token(
    start_service: StartService, live_settings: Settings, authority: Authority
) -> None:
    with logs.caught() as log:
        service = await start_service(live_settings)
        tokens = await service.new_session()
        own = await service_token(service, authority.caller(identity_of("app")))
        exchanged = await service.auth().ExchangeToken(
            pb.ExchangeTokenRequest(subject_token=tokens.access_token)
        )
        created = await service.account().CreateApiKey(
            account_pb.CreateApiKeyRequest(name="a-typed-in-name"),
            metadata=(("authorization", f"Bearer {tokens.access_token}"),),
        )
        for text in (created.api_key, created.api_key[:-1] + "x", own):
            await service.auth().ValidateApiKey(pb.ValidateApiKeyRequest(api_key=text))
            await service.judge_token(text)
            await outcome(service.auth().ExchangeToken(pb.ExchangeTokenRequest(subject_token=text)))
    logged = log.getvalue()
    assert all(kind in logged for kind in ("api_key.create", "token.exchange", "issue_service"))
    for secret in (
        created.api_key.removeprefix(created.key.prefix)[:20],
        own.rpartition(".")[2],
        exchanged.access_token.rpartition(".")[2],
        "a-typed-in-name",
    ):
        assert secret not in logged
