"""Roles of users at run time, over mutual TLS: what tokens lose, what logins need, how long."""

import asyncio
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from authsvc.v1 import admin_service_pb2 as pb
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1.common_pb2 import DEFINED_IN_RUN_TIME, DEFINED_IN_SETTINGS, Tokens
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.databases import until
from tests.support.probe import failure, outcome
from tests.support.service import Service, StartService, fields_of


async def put(service: Service, name: str = "editor", **more: Any) -> bool:
    values = {"permissions": ["publish", "review"]} | more
    request = pb.PutRoleRequest(role=pb.UserRole(name=name, **values))
    return (await service.admin().PutRole(request)).created


async def delete(service: Service, name: str = "editor") -> int:
    return (await service.admin().DeleteRole(pb.DeleteRoleRequest(name=name))).user_count


async def editor(service: Service) -> Tokens:
    """Return the tokens of a new user with the roles `user` and `editor`."""
    await service.register()
    await service.fetch("UPDATE users SET roles = '{user,editor}'")
    return await service.login()


async def permissions(service: Service, tokens: Tokens, **more: Any) -> list[str]:
    request = auth_pb.ValidateTokenRequest(access_token=tokens.access_token, **more)
    answer = await service.auth().ValidateToken(request)
    assert answer.active
    assert list(answer.claims.scopes) == list(answer.claims.permissions)
    return list(answer.claims.permissions)


async def test_role_can_be_put_listed_and_deleted(service: Service) -> None:
    assert await put(service, requires_second_factor=True)
    assert not await put(service, idle_lifetime=Duration(seconds=60))
    listed = await service.admin().ListRoles(pb.ListRolesRequest())
    roles = {role.name: role for role in listed.roles}
    assert roles["editor"].permissions == ["publish", "review"]
    assert not roles["editor"].requires_second_factor
    assert roles["editor"].idle_lifetime.seconds == 60
    assert roles["editor"].defined_in == DEFINED_IN_RUN_TIME
    assert roles["user"].defined_in == DEFINED_IN_SETTINGS
    assert await delete(service) == 0
    assert await outcome(delete(service)) == "ROLE_NOT_FOUND"
    rows = await service.fetch(
        "SELECT type FROM audit_events WHERE type LIKE 'role.%' ORDER BY event_id"
    )
    assert [row["type"] for row in rows] == ["role.put", "role.put", "role.delete"]


async def test_roles_are_listed_in_pages(service: Service) -> None:
    await put(service)
    first = await service.admin().ListRoles(pb.ListRolesRequest(page_size=1))
    request = pb.ListRolesRequest(page_size=1, page_token=first.next_page_token)
    second = await service.admin().ListRoles(request)
    names = [role.name for page in (first, second) for role in page.roles]
    assert (names, second.next_page_token) == (["editor", "user"], "")
    bad = service.admin().ListRoles(pb.ListRolesRequest(page_token="?"))
    assert fields_of(await failure(bad)) == ["page_token"]


async def test_role_of_settings_is_read_only(service: Service) -> None:
    assert await outcome(put(service, "user")) == "DEFINED_IN_SETTINGS"
    assert await outcome(delete(service, "user")) == "DEFINED_IN_SETTINGS"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "A"}, "role.name"),
        ({"name": ""}, "role.name"),
        ({"permissions": [""]}, "role.permissions[0]"),
        ({"permissions": ["a", 'a"']}, "role.permissions[1]"),
        ({"permissions": [f"p{number}" for number in range(65)]}, "role.permissions"),
        ({"idle_lifetime": Duration()}, "role.idle_lifetime"),
        ({"absolute_lifetime": Duration(seconds=-1)}, "role.absolute_lifetime"),
        ({"access_token_lifetime": Duration(seconds=2**60)}, "role.access_token_lifetime"),
    ],
)
async def test_invalid_role_is_refused(service: Service, change: Any, field: str) -> None:
    assert fields_of(await failure(put(service, **({"name": "bad"} | change)))) == [field]


async def test_narrowed_role_narrows_tokens_at_once(service: Service) -> None:
    await put(service)
    tokens = await editor(service)
    assert await permissions(service, tokens) == ["read", "write", "publish", "review"]
    await put(service, permissions=["review"])
    for more in ({}, {"strict": True}):
        assert await permissions(service, tokens, **more) == ["read", "write", "review"]
    missing = auth_pb.ValidateTokenRequest(
        access_token=tokens.access_token, required_scopes=["publish"]
    )
    assert not (await service.auth().ValidateToken(missing)).active
    batch = auth_pb.BatchValidateTokensRequest(access_tokens=[tokens.access_token])
    (result,) = (await service.auth().BatchValidateTokens(batch)).results
    assert list(result.claims.permissions) == ["read", "write", "review"]
    # For those who verify tokens themselves.
    rows = await service.fetch("SELECT user_id FROM revocations WHERE user_id IS NOT NULL")
    assert [str(row["user_id"]) for row in rows] == [tokens.user_id]
    # Wider again: a token has what it was issued with.
    await put(service, permissions=["publish", "new"])
    assert await permissions(service, tokens) == ["read", "write", "publish"]
    assert len(await service.fetch("SELECT 1 FROM revocations")) == 2
    assert await delete(service) == 1
    assert await permissions(service, tokens) == ["read", "write"]


async def test_exchanged_token_narrows_too(service: Service) -> None:
    await put(service)
    tokens = await editor(service)
    request = auth_pb.ExchangeTokenRequest(
        subject_token=tokens.access_token, scopes=["publish", "read"]
    )
    exchanged = await service.auth().ExchangeToken(request)
    await delete(service)
    validate = auth_pb.ValidateTokenRequest(access_token=exchanged.access_token)
    assert list((await service.auth().ValidateToken(validate)).claims.scopes) == ["read"]


async def test_other_replica_narrows_tokens(service: Service, start_service: StartService) -> None:
    await put(service)
    tokens = await editor(service)
    other = await start_service(service.settings)
    assert "publish" in await permissions(other, tokens)
    await put(service, permissions=[])

    async def is_narrowed() -> bool:
        return "publish" not in await permissions(other, tokens)

    await until(is_narrowed)


async def test_replica_that_hears_nothing_reads_roles_when_it_must(
    service: Service, start_service: StartService
) -> None:
    await put(service)
    tokens = await editor(service)
    other = await start_service(service.settings)
    definitions = other.app._parts.definitions
    assert "publish" in await permissions(other, tokens)
    for task in asyncio.all_tasks():
        if task.get_name() == "definitions":
            task.cancel()
    definitions._bound = 1_000_000.0
    await put(service, permissions=[])
    assert "publish" in await permissions(other, tokens)
    assert "publish" not in await permissions(other, tokens, strict=True)
    await put(service)
    assert "publish" not in await permissions(other, tokens)
    # From now on its copy is too old.
    definitions._bound = -1.0
    assert "publish" in await permissions(other, tokens)
    batch = auth_pb.BatchValidateTokensRequest(access_tokens=[tokens.access_token])
    await put(service, permissions=[])
    (result,) = (await other.auth().BatchValidateTokens(batch)).results
    assert "publish" not in result.claims.permissions


async def test_role_that_requires_a_factor_is_heeded_at_the_next_login(service: Service) -> None:
    await put(service, requires_second_factor=True)
    await service.register()
    await service.fetch("UPDATE users SET roles = '{user,editor}', email_verify_time = now()")
    login = auth_pb.LoginRequest(email=EMAIL, password=PASSWORD)
    answer = await service.auth().Login(login)
    assert answer.WhichOneof("result") == "mfa"


async def test_lifetimes_hold_for_sessions_opened_from_then_on(service: Service) -> None:
    old = await service.new_session()
    await service.fetch("UPDATE users SET roles = '{user,editor,long}'")
    await put(
        service,
        idle_lifetime=Duration(seconds=600),
        absolute_lifetime=Duration(seconds=3_000),
        access_token_lifetime=Duration(seconds=60),
    )
    await put(service, "long", idle_lifetime=Duration(seconds=86_400 * 400))
    new = await service.login()
    session = await service.get_session(new.session_id)
    created = session.create_time.ToMicroseconds()
    assert session.idle_expire_time.ToMicroseconds() - created == 600_000_000
    assert session.absolute_expire_time.ToMicroseconds() - created == 3_000_000_000
    lasts = new.access_token_expire_time.seconds - session.create_time.seconds
    assert 59 <= lasts <= 60
    refreshed = await service.refresh(new.refresh_token)
    session = await service.get_session(refreshed.session_id)
    idle = session.idle_expire_time.ToMicroseconds() - session.last_use_time.ToMicroseconds()
    assert idle == 600_000_000
    kept = await service.get_session(old.session_id)
    lasts = kept.idle_expire_time.seconds - kept.create_time.seconds
    assert lasts == 7 * 86_400
