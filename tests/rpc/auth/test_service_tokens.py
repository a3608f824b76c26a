"""Tokens for services over mutual TLS: issued, presented, exchanged."""

import hashlib
from datetime import UTC, timedelta
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from authsvc.config import Settings
from authsvc.models.calls import Role
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.common_pb2 import Claims
from tests.support.certificates import Authority, Certificate
from tests.support.clock import FakeClock
from tests.support.probe import failure, identity_of, outcome, reason_of, with_callers
from tests.support.service import Service, StartService, fields_of, inactive

MINUTES = timedelta(minutes=10)


def thumbprint(certificate: Certificate) -> bytes:
    """Return the SHA-256 of a certificate in DER form, as the peer of a TLS connection sees it."""
    return hashlib.sha256(certificate.parsed.public_bytes(Encoding.DER)).digest()


def issue(service: Service, caller: str = "app", **request: Any) -> Any:
    """Call IssueServiceToken."""
    return service.auth(caller).IssueServiceToken(pb.IssueServiceTokenRequest(**request))


def exchange(service: Service, token: str, **request: Any) -> Any:
    """Call ExchangeToken."""
    return service.auth().ExchangeToken(pb.ExchangeTokenRequest(subject_token=token, **request))


async def claims(service: Service, token: str, **request: Any) -> Claims:
    """Return the claims of an active token."""
    check = pb.ValidateTokenRequest(access_token=token, **request)
    response = await service.auth("edge").ValidateToken(check)
    assert inactive(response) == ""
    return response.claims


@pytest.mark.fast
async def test_token_is_issued_to_caller_and_its_certificate(
    start_service: StartService, live_settings: Settings, clock: FakeClock, authority: Authority
) -> None:
    service = await start_service(live_settings, clock)
    certificate = authority.caller(identity_of("edge"))
    stub = AuthServiceStub(service.clients.open(certificate))
    response = await stub.IssueServiceToken(
        pb.IssueServiceTokenRequest(audience="billing", scopes=["invoices.read"])
    )
    assert response.expire_time.ToDatetime(UTC) == clock.now() + MINUTES
    check = {"audience": "billing", "certificate_thumbprint": thumbprint(certificate)}
    found = await claims(service, response.access_token, required_scopes=["invoices.read"], **check)
    assert (found.subject, list(found.audiences)) == (identity_of("edge"), ["billing"])
    assert list(found.scopes) == ["invoices.read"]
    assert found.certificate_thumbprint == thumbprint(certificate)
    assert (found.session_id, list(found.roles), list(found.permissions)) == ("", [], [])
    assert not found.HasField("authentication_time")
    assert not found.actors
    # Again, from the cache.
    assert await claims(service, response.access_token, **check) == found
    assert await service.judge_token(response.access_token, audience="billing") == (
        "CERTIFICATE_MISMATCH"
    )


@pytest.mark.parametrize("caller", list(Role))
async def test_every_role_can_request_token(caller: str, service: Service) -> None:
    response = await issue(service, caller)
    answer = await service.auth("edge").ValidateToken(
        pb.ValidateTokenRequest(
            access_token=response.access_token, certificate_thumbprint=bytes(32)
        )
    )
    assert inactive(answer) == "CERTIFICATE_MISMATCH"


async def test_only_configured_audiences_are_granted(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(with_callers(live_settings, {identity_of("app"): {Role.APP}}))
    tokens = await service.new_session()
    for call in (
        issue(service),
        issue(service, audience="billing"),
        exchange(service, tokens.access_token, audience="billing"),
    ):
        error = await failure(call)
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert reason_of(error) == "CALLER_NOT_ALLOWED"
    assert await outcome(exchange(service, tokens.access_token)) == "OK"


async def test_changed_settings_apply_from_next_call(
    service: Service, live_settings: Settings
) -> None:
    assert await outcome(issue(service, audience="billing")) == "OK"
    service.app.reload(with_callers(live_settings, {identity_of("app"): {Role.APP}}))
    assert await outcome(issue(service, audience="billing")) == "CALLER_NOT_ALLOWED"


async def test_only_configured_scopes_are_granted(service: Service) -> None:
    assert await outcome(issue(service, scopes=["invoices.read", "read"])) == "CALLER_NOT_ALLOWED"
    assert fields_of(await failure(issue(service, scopes=[""]))) == ["scopes[0]"]
    assert fields_of(await failure(issue(service, audience="x" * 257))) == ["audience"]


@pytest.mark.parametrize("length", [1, 20, 31, 33, 64])
async def test_thumbprint_must_be_sha_256(length: int, service: Service) -> None:
    call = service.auth("edge").ValidateToken(
        pb.ValidateTokenRequest(access_token="x", certificate_thumbprint=bytes(length))
    )
    assert fields_of(await failure(call)) == ["certificate_thumbprint"]


async def test_user_token_is_not_bound_to_certificate(service: Service) -> None:
    tokens = await service.new_session()
    shown = {"certificate_thumbprint": bytes(32)}
    assert (await claims(service, tokens.access_token, **shown)).subject == tokens.user_id


@pytest.mark.fast
async def test_exchanged_token_names_actor(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session()
    before = await claims(timed, tokens.access_token)
    clock.advance(5)
    response = await exchange(timed, tokens.access_token, audience="billing", scopes=["read"])
    assert response.expire_time.ToDatetime(UTC) == clock.now() + MINUTES
    said = await claims(timed, response.access_token, audience="billing", strict=True)
    assert (said.subject, said.session_id) == (tokens.user_id, tokens.session_id)
    assert said.authentication_time == before.authentication_time
    assert list(said.authentication_methods) == list(before.authentication_methods)
    assert (list(said.scopes), list(said.permissions), list(said.roles)) == (["read"], ["read"], [])
    assert list(said.actors) == [identity_of("app")]
    again = await exchange(timed, response.access_token)
    said = await claims(timed, again.access_token, audience="billing")
    assert list(said.actors) == [identity_of("app")] * 2
    assert await timed.judge_token(response.access_token) == "AUDIENCE_MISMATCH"
    batch = await timed.auth("edge").BatchValidateTokens(
        pb.BatchValidateTokensRequest(access_tokens=[again.access_token], audience="billing")
    )
    assert batch.results[0].claims == said


async def test_invalid_subject_tokens_are_rejected(service: Service) -> None:
    tokens = await service.new_session()
    own = await issue(service)
    for token in ("x", "x" * 9_000, tokens.refresh_token, own.access_token):
        error = await failure(exchange(service, token))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert reason_of(error) == "CREDENTIALS_INVALID"
    error = await failure(exchange(service, ""))
    assert fields_of(error) == ["subject_token"]
    error = await failure(exchange(service, tokens.access_token, scopes=["read", "admin"]))
    assert fields_of(error) == ["scopes[1]"]


async def test_exchanged_token_ends_with_session(service: Service) -> None:
    tokens = await service.new_session()
    exchanged = await exchange(service, tokens.access_token)
    assert await service.judge_token(exchanged.access_token) == ""
    await service.auth().Logout(pb.LogoutRequest(refresh_token=tokens.refresh_token))
    assert await service.judge_token(exchanged.access_token) == "SESSION_REVOKED"
    for token in (tokens.access_token, exchanged.access_token):
        assert await outcome(exchange(service, token)) == "CREDENTIALS_INVALID"


async def test_token_does_not_outlive_certificate(
    start_service: StartService, live_settings: Settings, clock: FakeClock, authority: Authority
) -> None:
    service = await start_service(live_settings, clock)
    end = clock.now() + timedelta(minutes=3)
    stub = AuthServiceStub(
        service.clients.open(authority.caller(identity_of("app"), not_after=end))
    )
    response = await stub.IssueServiceToken(pb.IssueServiceTokenRequest())
    assert response.expire_time.ToDatetime(UTC) == end
