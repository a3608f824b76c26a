"""Both clients call the real service with the same names, and raise errors by reason."""

import asyncio
from pathlib import Path
from uuid import UUID

import pytest

from authsvc.client import AsyncClient, Client
from authsvc.client.errors import BearerInvalid, CredentialsInvalid, FieldInvalid, UserNotFound
from authsvc.v1.account_service_pb2 import GetAccountRequest
from authsvc.v1.admin_service_pb2 import ExportUsersRequest, GetUserRequest
from authsvc.v1.auth_service_pb2 import (
    GetJwksRequest,
    LoginRequest,
    RegisterRequest,
    ValidateTokenRequest,
)
from authsvc.v1.common_pb2 import Tokens
from authsvc.v1.rate_limit_service_pb2 import ListPoliciesRequest
from authsvc.v1.session_service_pb2 import ListSessionsRequest
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.certificates import Authority
from tests.support.clients import OpenAsync, OpenSync, tls_files
from tests.support.service import Service


async def test_asynchronous_client_calls_every_service(
    service: Service, open_async: OpenAsync
) -> None:
    client, admin = (open_async(service.app.grpc_port, caller) for caller in ("app", "admin"))
    await client.auth.Register(RegisterRequest(email=EMAIL, password=PASSWORD))
    login = await client.auth.Login(LoginRequest(email=EMAIL, password=PASSWORD))
    tokens = login.tokens
    account = await client.as_user(tokens.access_token).GetAccount(GetAccountRequest())
    assert account.account.user_id == tokens.user_id
    listed = await client.sessions.ListSessions(ListSessionsRequest(user_id=tokens.user_id))
    assert [each.session_id for each in listed.sessions] == [tokens.session_id]
    assert (await client.limits.ListPolicies(ListPoliciesRequest())).policies
    exported = [each async for each in admin.admin.ExportUsers(ExportUsersRequest())]
    assert exported


async def test_threaded_client_calls_every_service(service: Service, open_sync: OpenSync) -> None:
    client, admin = (open_sync(service.app.grpc_port, caller) for caller in ("app", "admin"))

    def calls() -> Tokens:
        client.auth.Register(RegisterRequest(email=EMAIL, password=PASSWORD))
        tokens = client.auth.Login(LoginRequest(email=EMAIL, password=PASSWORD)).tokens
        account = client.as_user(tokens.access_token).GetAccount(GetAccountRequest())
        assert account.account.user_id == tokens.user_id
        listed = client.sessions.ListSessions(ListSessionsRequest(user_id=tokens.user_id))
        assert [each.session_id for each in listed.sessions] == [tokens.session_id]
        assert client.limits.ListPolicies(ListPoliciesRequest()).policies
        assert list(admin.admin.ExportUsers(ExportUsersRequest()))
        with pytest.raises(CredentialsInvalid) as caught:
            client.auth.Login(LoginRequest(email=EMAIL, password="wrong"))
        assert caught.value.request_id
        return tokens

    tokens = await asyncio.to_thread(calls)
    assert await service.judge_token(tokens.access_token) == ""


async def test_errors_tell_reason_fields_and_request(
    service: Service, open_async: OpenAsync
) -> None:
    client, admin = (open_async(service.app.grpc_port, caller) for caller in ("app", "admin"))
    with pytest.raises(CredentialsInvalid) as caught:
        await client.auth.Login(LoginRequest(email=EMAIL, password="wrong"))
    error = caught.value
    assert error.reason == "CREDENTIALS_INVALID"
    assert error.request_id
    assert error.request_id in str(error)
    assert (error.retry_after, error.is_retryable) == (None, False)
    # Neither the error nor what it stems from shows the request.
    assert error.__cause__ is None
    assert "wrong" not in repr((error, vars(error)))
    with pytest.raises(UserNotFound):
        await admin.admin.GetUser(GetUserRequest(user_id=str(UUID(int=1))))
    with pytest.raises(FieldInvalid) as invalid:
        await client.auth.ValidateToken(ValidateTokenRequest())
    assert [path for path, _ in invalid.value.fields] == ["access_token"]


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "ä", "x" * 8193])
async def test_what_is_no_token_is_refused_unsent_and_unshown(
    token: str, open_async: OpenAsync, open_sync: OpenSync
) -> None:
    for client in (open_async(1), open_sync(1)):
        with pytest.raises(BearerInvalid) as caught:
            client.as_user(token)
        assert len(token) < 2 or token not in str(caught.value)


def test_clients_show_only_their_target(open_sync: OpenSync) -> None:
    assert repr(open_sync(1)) == "Client('127.0.0.1:1')"


async def test_clients_have_the_same_names() -> None:
    assert {name for name in vars(AsyncClient) if name[0] != "_"} == {
        name for name in vars(Client) if name[0] != "_"
    }


async def test_client_may_be_made_before_its_event_loop_runs(
    service: Service, authority: Authority, tmp_path: Path
) -> None:
    """As modules do that are imported before anything runs."""
    files = tls_files(tmp_path / "tls", authority).parameters

    def module() -> str:
        client = AsyncClient(f"127.0.0.1:{service.app.grpc_port}", **files)

        async def main() -> str:
            async with client:
                return (await client.auth.GetJwks(GetJwksRequest())).jwks_json

        return asyncio.run(main())

    assert "keys" in await asyncio.to_thread(module)


@pytest.mark.parametrize(
    "target",
    [
        "authsvc.example:8443",
        "192.0.2.1:8443",
        "[2001:db8::1]:8443",
        "dns:///authsvc.example:8443",
        "dns://192.0.2.53/authsvc.example:8443",
        "dns:authsvc.example:8443",
        "ipv4:192.0.2.1:8443,192.0.2.2:8443",
        "ipv6:[2001:db8::1]:8443",
        "ipv6:%5B2001:db8::1%5D:8443",
        "unix:/run/authsvc.sock",
        "xds:///authsvc",
    ],
)
def test_target_is_any_address_of_grpc(target: str, authority: Authority, tmp_path: Path) -> None:
    parameters = tls_files(tmp_path / "tls", authority).parameters
    for kind in (AsyncClient, Client):
        assert kind(target, **parameters).target == target


@pytest.mark.parametrize(
    "target",
    [
        "",
        "authsvc.example",
        "authsvc.example:",
        ":8443",
        "authsvc.example:https",
        "authsvc.example:0",
        "authsvc.example:65536",
        f"authsvc.example:{'9' * 5000}",
        "https://authsvc.example:8443",
        "2001:db8::1",
        "dns:///authsvc.example",
        "ipv4:192.0.2.1",
        "ipv4:192.0.2.1:8443,192.0.2.2",
        "ipv6:[2001:db8::1]",
    ],
)
def test_target_without_a_port_is_refused(
    target: str, authority: Authority, tmp_path: Path
) -> None:
    parameters = tls_files(tmp_path / "tls", authority).parameters
    for kind in (AsyncClient, Client):
        with pytest.raises(ValueError, match="not an address with a port"):
            kind(target, **parameters)
