"""Every path that ends something, walked over the service: what a verifier learns of it.

A verifier follows WatchRevocations, and refuses tokens by what that says without a call. So all
that has ended must be covered, and nothing else.
"""

import ast
import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID

import asyncpg
import grpc
import jwt
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

import authsvc.core
import authsvc.store
from authsvc.config import Settings
from authsvc.core.messages.outbox import MessageKind
from authsvc.core.revocations.cursors import read_revocation_cursor, read_watch_cursor
from authsvc.store import revocations
from authsvc.store import roles as role_store
from authsvc.store.postgres.connector import Connector
from authsvc.v1 import account_service_pb2 as account_pb
from authsvc.v1 import admin_service_pb2 as admin_pb
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1 import session_service_pb2 as session_pb
from authsvc.v1.common_pb2 import ClientContext, Tokens
from tests.support.code_requests import sent
from tests.support.databases import until, waits_for_a_lock
from tests.support.oauth_requests import came_back, oauth_settings
from tests.support.passkeys import bearer
from tests.support.probe import with_changes
from tests.support.provider import LocalProvider
from tests.support.service import Service, StartService, detail

_CLIENT = ClientContext(ip="192.0.2.1", user_agent="Browser/1", device_id="phone")
_PASSWORD = "Analytical-Engine-1843"
# What ends something, or adds what does to the log, by the name under which core calls it.
_APPENDING = {"append", "append_user", "revoke_tokens", "revoke_in", "end_session"} | {
    "announce_narrowed"
}


@dataclass(frozen=True)
class Ended:
    """What a path has ended, and what goes on; `cursor` is that of its answer."""

    cursor: str
    ended: Sequence[Tokens] = ()
    outdated: Sequence[Tokens] = ()
    kept: Sequence[Tokens] = ()


@dataclass
class Here:
    """The service, and users of it."""

    service: Service
    provider: LocalProvider
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def user(self, *roles: str, verified: bool = True) -> admin_pb.User:
        """Create a user without a password."""
        request = admin_pb.CreateUserRequest(
            email=f"user{next(self._numbers)}@example.test", roles=roles, email_verified=verified
        )
        return (await self.service.admin().CreateUser(request)).user

    async def session(self, user: admin_pb.User | None = None) -> Tokens:
        """Open a session, for a new user if none is given."""
        return await self.service.create_session((user or await self.user()).user_id)

    async def set_roles(self, user: admin_pb.User, *roles: str) -> str:
        request = admin_pb.SetUserRolesRequest(user_id=user.user_id, roles=roles)
        return (await self.service.admin().SetUserRoles(request)).revocation_cursor

    async def refresh(self, tokens: Tokens) -> Tokens:
        return await self.service.refresh(tokens.refresh_token)


_Path = Callable[[Here], Awaitable[Ended]]


async def _logout(here: Here) -> Ended:
    user = await here.user()
    mine, other = await here.session(user), await here.session(user)
    request = auth_pb.LogoutRequest(refresh_token=mine.refresh_token)
    first = (await here.service.auth().Logout(request)).revocation_cursor
    # The answer may have been lost: the same call again names it, too.
    again = (await here.service.auth().Logout(request)).revocation_cursor
    assert read_revocation_cursor(again).transaction > read_revocation_cursor(first).transaction
    return Ended(again, ended=[mine], kept=[other])


async def _revoke_session(here: Here) -> Ended:
    user = await here.user()
    mine, other = await here.session(user), await here.session(user)
    request = session_pb.RevokeSessionRequest(session_id=mine.session_id)
    cursor = (await here.service.sessions().RevokeSession(request)).revocation_cursor
    assert (await here.service.sessions().RevokeSession(request)).revocation_cursor
    return Ended(cursor, ended=[mine], kept=[other])


async def _revoke_user_sessions(here: Here) -> Ended:
    user = await here.user()
    mine, kept = await here.session(user), await here.session(user)
    request = session_pb.RevokeUserSessionsRequest(
        user_id=user.user_id, except_session_id=kept.session_id
    )
    answer = await here.service.sessions().RevokeUserSessions(request)
    assert answer.revoked_count == 1
    again = await here.service.sessions().RevokeUserSessions(request)
    assert (again.revoked_count, bool(again.revocation_cursor)) == (0, True)
    return Ended(answer.revocation_cursor, ended=[mine], kept=[kept])


async def _too_many_sessions(here: Here) -> Ended:
    user = await here.user()
    opened = [await here.session(user) for _ in range(6)]
    assert [bool(tokens.revocation_cursor) for tokens in opened] == [False] * 5 + [True]
    return Ended(opened[-1].revocation_cursor, ended=opened[:1], kept=opened[1:])


async def _change_password(here: Here) -> Ended:
    user = await here.user()
    mine, other = await here.session(user), await here.session(user)
    request = account_pb.ChangePasswordRequest(new_password=_PASSWORD, end_other_sessions=True)
    answer = await here.service.account().ChangePassword(request, metadata=bearer(mine))
    assert answer.ended_session_count == 1
    return Ended(answer.revocation_cursor, ended=[other], kept=[mine])


async def _reset_password(here: Here) -> Ended:
    user = await here.user()
    mine = await here.session(user)
    await here.service.auth().RequestPasswordReset(
        auth_pb.RequestPasswordResetRequest(email=user.email)
    )
    code = await sent(here.service, MessageKind.RESET_PASSWORD)
    request = auth_pb.ResetPasswordRequest(
        email=user.email, code=code, new_password=_PASSWORD, client=_CLIENT
    )
    cursor = (await here.service.auth().ResetPassword(request)).revocation_cursor
    return Ended(cursor, ended=[mine], kept=[await here.session(user)])


async def _require_password_change(here: Here) -> Ended:
    user = await here.user()
    mine = await here.session(user)
    request = admin_pb.RequirePasswordChangeRequest(user_id=user.user_id)
    answer = await here.service.admin().RequirePasswordChange(request)
    assert answer.revoked_count == 1
    return Ended(answer.revocation_cursor, ended=[mine], kept=[await here.session(user)])


async def _disable(here: Here) -> Ended:
    user = await here.user()
    mine = await here.session(user)
    request = admin_pb.DisableUserRequest(user_id=user.user_id)
    cursor = (await here.service.admin().DisableUser(request)).revocation_cursor
    await here.service.admin().EnableUser(admin_pb.EnableUserRequest(user_id=user.user_id))
    # Within the same second, as a rule: it is not to be taken for one from before.
    return Ended(cursor, ended=[mine], kept=[await here.session(user)])


async def _delete_user(here: Here) -> Ended:
    user = await here.user()
    mine = await here.session(user)
    request = admin_pb.DeleteUserRequest(user_id=user.user_id)
    return Ended((await here.service.admin().DeleteUser(request)).revocation_cursor, ended=[mine])


async def _delete_own_account(here: Here) -> Ended:
    user = await here.user()
    mine, other = await here.session(user), await here.session(user)
    answer = await here.service.account().DeleteAccount(
        account_pb.DeleteAccountRequest(), metadata=bearer(mine)
    )
    return Ended(answer.revocation_cursor, ended=[mine, other])


async def _refresh_reuse(here: Here) -> Ended:
    user = await here.user()
    mine, other = await here.session(user), await here.session(user)
    new = await here.refresh(mine)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await here.refresh(mine)
    info = detail(refused.value, ErrorInfo)
    assert info.reason == "REFRESH_TOKEN_REUSED"
    return Ended(info.metadata["revocation_cursor"], ended=[mine, new], kept=[other])


async def _reclaim_by_code(here: Here) -> Ended:
    user = await here.user(verified=False)
    mine = await here.session(user)
    asked = await here.service.auth().RequestLoginCode(
        auth_pb.RequestLoginCodeRequest(email=user.email)
    )
    code = await sent(here.service, MessageKind.LOGIN_CODE)
    request = auth_pb.LoginWithCodeRequest(
        challenge_id=asked.challenge_id, code=code, client=_CLIENT
    )
    owner = (await here.service.auth().LoginWithCode(request)).tokens
    return Ended(owner.revocation_cursor, ended=[mine], kept=[owner])


async def _reclaim_by_verification(here: Here) -> Ended:
    user = await here.user(verified=False)
    mine = await here.session(user)
    await here.service.auth().ResendVerification(
        auth_pb.ResendVerificationRequest(email=user.email)
    )
    code = await sent(here.service, MessageKind.VERIFY_EMAIL)
    request = auth_pb.VerifyEmailRequest(email=user.email, code=code, client=_CLIENT)
    answer = await here.service.auth().VerifyEmail(request)
    assert answer.credentials_removed
    return Ended(answer.revocation_cursor, ended=[mine], kept=[await here.session(user)])


async def _reclaim_by_provider(here: Here) -> Ended:
    user = await here.user(verified=False)
    mine = await here.session(user)
    now = int(time.time())
    here.provider.claims = {"iat": now, "exp": now + 300, "sub": user.user_id}
    here.provider.claims |= {"email": user.email, "email_verified": True}
    owner = (await here.service.auth().CompleteOAuth(await came_back(here.service))).tokens
    assert owner.user_id == user.user_id
    return Ended(owner.revocation_cursor, ended=[mine], kept=[owner])


async def _revoke_api_key(here: Here) -> Ended:
    mine = await here.session()
    account, auth = here.service.account(), here.service.auth("edge")
    created = [
        await account.CreateApiKey(account_pb.CreateApiKeyRequest(name="ci"), metadata=bearer(mine))
        for _ in range(2)
    ]
    checks = [auth_pb.ValidateApiKeyRequest(api_key=key.api_key) for key in created]
    for check in checks:
        assert (await auth.ValidateApiKey(check)).active
    key_id = created[0].key.key_id
    request = account_pb.RevokeApiKeyRequest(key_id=key_id)
    cursor = (await account.RevokeApiKey(request, metadata=bearer(mine))).revocation_cursor
    assert (await account.RevokeApiKey(request, metadata=bearer(mine))).revocation_cursor
    for check in checks:
        check.min_cursor = cursor
    assert [(await auth.ValidateApiKey(check)).active for check in checks] == [False, True]
    rows = await here.service.fetch(
        "SELECT api_key_id FROM revocations WHERE api_key_id = ANY ($1)",
        [UUID(key.key.key_id) for key in created],
    )
    assert [str(row["api_key_id"]) for row in rows] == [key_id]
    return Ended(cursor, kept=[mine])


async def _remove_role(here: Here) -> Ended:
    user = await here.user("user", "editor")
    old = await here.session(user)
    cursor = await here.set_roles(user, "user")
    new = await here.refresh(old)
    assert _claims(new)["roles"] == ["user"]
    assert await here.service.judge_session(old.session_token, strict=True) == ""
    # And once more within the second: the token just issued must not outlive it.
    last = await here.set_roles(user, "editor")
    assert await here.set_roles(user, "editor") != last
    assert cursor != last
    return Ended(last, outdated=[old, new], kept=[await here.refresh(new)])


async def _add_role(here: Here) -> Ended:
    user = await here.user("user")
    mine = await here.session(user)
    return Ended(await here.set_roles(user, "user", "editor"), kept=[mine])


async def _add_role_that_requires_a_factor(here: Here) -> Ended:
    user = await here.user("user")
    mine = await here.session(user)
    return Ended(await here.set_roles(user, "user", "auditor"), ended=[mine])


async def _redefine_role(here: Here) -> Ended:
    admin = here.service.admin()
    role = admin_pb.UserRole(name="temporary", permissions=["read", "write"])
    await admin.PutRole(admin_pb.PutRoleRequest(role=role))
    mine = await here.session(await here.user("temporary"))
    role.permissions.remove("write")
    await admin.PutRole(admin_pb.PutRoleRequest(role=role))
    await admin.DeleteRole(admin_pb.DeleteRoleRequest(name="temporary"))
    return Ended("", kept=[mine])


async def _revoke_all(here: Here) -> Ended:
    user = await here.user()
    mine, other = await here.session(user), await here.session()
    request = admin_pb.RevokeAllSessionsRequest(user_ids=[user.user_id])
    answer = await here.service.admin().RevokeAllSessions(request)
    assert answer.revoked_count == 1
    return Ended(answer.revocation_cursor, ended=[mine], kept=[other])


async def _revoke_all_while_one_is_locked(here: Here) -> Ended:
    user = await here.user()
    opened = [await here.session(user) for _ in range(3)]
    request = admin_pb.RevokeAllSessionsRequest(user_ids=[user.user_id])
    holding, watching = [
        await asyncpg.connect(here.service.settings.database.url.get_secret_value())
        for _ in range(2)
    ]
    try:
        async with holding.transaction():
            await holding.execute(
                "SELECT FROM sessions WHERE session_id = $1 FOR UPDATE", opened[1].session_id
            )
            ending = asyncio.ensure_future(here.service.admin().RevokeAllSessions(request))
            await until(lambda: waits_for_a_lock(watching))
        answer = await ending
    finally:
        await holding.close()
        await watching.close()
    assert answer.revoked_count == 3
    return Ended(answer.revocation_cursor, ended=opened)


async def _compromised_key(here: Here) -> Ended:
    mine = await here.session()
    key_id = jwt.get_unverified_header(mine.access_token)["kid"]
    request = admin_pb.RevokeSigningKeyRequest(key_id=key_id)
    cursor = (await here.service.admin().RevokeSigningKey(request)).revocation_cursor
    assert (await here.service.admin().RevokeSigningKey(request)).revocation_cursor
    return Ended(cursor, ended=[mine], kept=[await here.refresh(mine)])


async def _retention(here: Here) -> Ended:
    """Old accounts that nobody verified go, but not those that have a session."""
    used, unused = await here.user(verified=False), await here.user(verified=False)
    mine, ended = await here.session(used), await here.session(unused)
    long_ago = "now() - interval '400 days'"
    await here.service.fetch(
        "UPDATE users SET origin = 'register', last_login_time = NULL,"
        f" create_time = {long_ago}, update_time = {long_ago} WHERE user_id = ANY ($1)",
        [UUID(used.user_id), UUID(unused.user_id)],
    )
    retention = here.service.app._parts.use.retention
    assert (await retention.run_once())["unverified_accounts"] == 0
    # What has ended is removed after its retention period, long after its last token has expired;
    # here, a row is lost before.
    await here.service.fetch("DELETE FROM sessions WHERE session_id = $1", UUID(ended.session_id))
    removed = await retention.run_once()
    assert (removed["unverified_accounts"], removed["sessions"], removed["revocations"]) == (
        1,
        0,
        0,
    )
    return Ended("", ended=[ended], kept=[mine])


_PATHS: Sequence[_Path] = (
    _logout,
    _revoke_session,
    _revoke_user_sessions,
    _too_many_sessions,
    _change_password,
    _reset_password,
    _require_password_change,
    _disable,
    _delete_user,
    _delete_own_account,
    _refresh_reuse,
    _reclaim_by_code,
    _reclaim_by_verification,
    _reclaim_by_provider,
    _revoke_api_key,
    _remove_role,
    _add_role,
    _add_role_that_requires_a_factor,
    _redefine_role,
    _revoke_all,
    _revoke_all_while_one_is_locked,
    _retention,
    # The last, as it ends the tokens of all others.
    _compromised_key,
)


def _claims(tokens: Tokens) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(
        tokens.access_token, options={"verify_signature": False, "verify_exp": False}
    )
    return claims | {"kid": jwt.get_unverified_header(tokens.access_token)["kid"]}


def _covers(revocation: session_pb.Revocation, claims: dict[str, Any]) -> bool:
    """Return whether a verifier that knows of this refuses a token with these claims."""
    match revocation.WhichOneof("subject"):
        case "session_id":
            return bool(revocation.session_id == claims["sid"])
        case "user_id":
            second = revocation.revoke_time.seconds
            return bool(revocation.user_id == claims["sub"] and claims["iat"] <= second)
        case "key_id":
            return bool(revocation.key_id == claims["kid"])
        case _:
            return False


class Verifier:
    """What a service that follows the revocations knows."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stream = service.sessions("edge").WatchRevocations(
            session_pb.WatchRevocationsRequest()
        )
        self._known = list[session_pb.Revocation]()

    @property
    def count(self) -> int:
        return len(self._known)

    async def known(self) -> list[session_pb.Revocation]:
        """Return all that was revoked before this call."""
        [now] = await self._service.fetch(
            "SELECT server_run() AS run_id, pg_current_xact_id() AS id"
        )
        async for response in self._stream:
            self._known += response.revocations
            position = read_watch_cursor(response.cursor).position
            if response.complete and position.knows(now["id"]):
                assert position.run_id == now["run_id"]
                break
        return list(self._known)


async def _walk(here: Here, path: _Path, verifier: Verifier) -> None:
    bystander = await here.session()
    before = verifier.count
    ended = await path(here)
    known = await verifier.known()
    judge = here.service.judge_token
    for tokens in (*ended.ended, *ended.outdated):
        claims = _claims(tokens)
        assert any(_covers(revocation, claims) for revocation in known[before:]), path
        reason = await judge(tokens.access_token, strict=True)
        assert reason, path
        if ended.cursor:
            assert await judge(tokens.access_token, min_cursor=ended.cursor) == reason, path
    for tokens in ended.outdated:
        assert await judge(tokens.access_token, strict=True) == "TOKEN_OUTDATED", path
    everybody = [*ended.kept, *([] if path is _compromised_key else [bystander])]
    for tokens in everybody:
        claims = _claims(tokens)
        assert not any(_covers(revocation, claims) for revocation in known), path
        for more in ({"strict": True}, {}, {"min_cursor": ended.cursor}):
            assert await judge(tokens.access_token, **more) == "", path
    if ended.cursor:
        cursor = read_revocation_cursor(ended.cursor)
        [found] = await here.service.fetch("SELECT server_run() AS run_id")
        assert cursor.run_id == found["run_id"], path


def _appending_functions() -> set[tuple[str, str]]:
    """Return the functions of core that end something, by file and name."""
    found = set()
    folder = Path(authsvc.core.__file__).parent
    for path in folder.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.AsyncFunctionDef):
                continue
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and _is_appending(call.func):
                    found.add((str(path.relative_to(folder)), function.name))
    return found


def _is_appending(function: ast.expr) -> bool:
    match function:
        case ast.Attribute(value=ast.Name(id="revocations" | "store"), attr=name):
            return name in _APPENDING
        case ast.Attribute(attr="revoke_in") | ast.Name(id="revoke_tokens" | "end_session"):
            return True
        case _:
            return False


def _statements() -> set[str]:
    """Return the statements of the store that append to the log."""
    found = set()
    for path in Path(authsvc.store.__file__).parent.glob("*.py"):
        module = sys.modules.get(f"authsvc.store.{path.stem}")
        for value in vars(module).values() if module else ():
            if isinstance(value, str) and "INSERT INTO revocations" in value:
                found.add(value)
    # Filled in to make two others.
    return {statement for statement in found if "{selected}" not in statement}


@dataclass
class Trace:
    """The functions that appended to the log, and the statements that did."""

    functions: set[tuple[str, str]] = field(default_factory=set)
    statements: set[str] = field(default_factory=set)

    def note_query(self, query: asyncpg.connection.LoggedQuery) -> None:
        if "INSERT INTO revocations" in query.query:
            self.statements.add(query.query)

    def watch(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def watched(*arguments: Any, **more: Any) -> Any:
            frame: FrameType | None = sys._getframe(1)
            folder = Path(authsvc.core.__file__).parent
            while frame is not None:
                path = Path(frame.f_code.co_filename)
                if path.is_relative_to(folder):
                    self.functions.add((str(path.relative_to(folder)), frame.f_code.co_name))
                frame = frame.f_back
            return await function(*arguments, **more)

        return watched


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Trace:
    """Records what appends to the log from now on."""
    trace = Trace()
    for module, name in (
        (revocations, "append"),
        (revocations, "append_user"),
        (role_store, "announce_narrowed"),
    ):
        monkeypatch.setattr(module, name, trace.watch(getattr(module, name)))
    connect = Connector.connect

    async def connect_and_listen(connector: Connector) -> Any:
        connection = await connect(connector)
        connection.add_query_logger(trace.note_query)
        return connection

    monkeypatch.setattr(Connector, "connect", connect_and_listen)
    return trace


def _settings(settings: Settings, provider: LocalProvider) -> Settings:
    settings = settings.model_copy(
        update={
            "oauth": oauth_settings(provider),
            "permissions": {"user": ["read"], "editor": ["read", "write"], "auditor": ["audit"]},
        }
    )
    settings = with_changes(settings, "second_factors", required_for_roles=["auditor"])
    settings = with_changes(settings, "retention", unverified_accounts=timedelta(days=60))
    return with_changes(
        settings, "tokens", refresh_grace=timedelta(0), refresh_lost_answer="strict"
    )


@pytest.mark.world
async def test_every_path_covers_what_it_ends_and_nothing_that_goes_on(
    start_service: StartService, live_settings: Settings, provider: LocalProvider, trace: Trace
) -> None:
    here = Here(await start_service(_settings(live_settings, provider)), provider)
    verifier = Verifier(here.service)
    for path in _PATHS:
        await _walk(here, path, verifier)
    # So that a new path can't be forgotten.
    assert _appending_functions() <= trace.functions
    assert _statements() <= trace.statements
