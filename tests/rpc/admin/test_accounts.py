"""Users as operators look after them, over mutual TLS: effects, refusals, and races."""

import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from grpc.aio import AioRpcError

from authsvc.config import Settings
from authsvc.models.calls import Role
from authsvc.v1 import admin_service_pb2 as pb
from authsvc.v1.account_service_pb2 import (
    ChangePasswordRequest,
    CreateApiKeyRequest,
    GetAccountRequest,
)
from authsvc.v1.auth_service_pb2 import (
    LoginRequest,
    ResetPasswordRequest,
    ValidateApiKeyRequest,
    ValidateTokenRequest,
)
from authsvc.v1.common_pb2 import DELIVERY_RETURN, InactiveReason, Tokens
from tests.support.accounts import EMAIL, PASSWORD, WRONG, cheap_passwords
from tests.support.clock import FakeClock
from tests.support.databases import until
from tests.support.holdings import give_everything, tables_that_say
from tests.support.passkeys import bearer
from tests.support.probe import outcome
from tests.support.service import Service, StartService, fields_of

NEW = "Sketch-Of-The-Engine-1"
NOBODY = "00000000-0000-7000-8000-000000000000"
OTHER = "grace@example.test"


@pytest.fixture
def live_settings(live_settings: Settings) -> Settings:
    """Settings with the roles that these tests give, and with an operator who is an issuer too."""
    callers = tuple(
        caller.model_copy(update={"roles": caller.roles | {Role.ADMIN}})
        if Role.ISSUER in caller.roles
        else caller
        for caller in live_settings.callers
    )
    return live_settings.model_copy(
        update={
            "callers": callers,
            "passwords": cheap_passwords(),
            "permissions": {"user": ["read"], "editor": ["read", "write"], "boss": ["fire"]},
            "second_factors": live_settings.second_factors.model_copy(
                update={"required_for_roles": frozenset({"boss"})}
            ),
        }
    )


async def get(service: Service, user_id: str = "", email: str = "") -> pb.User:
    request = pb.GetUserRequest(user_id=user_id) if user_id else pb.GetUserRequest(email=email)
    return (await service.admin().GetUser(request)).user


async def listed(service: Service, **filters: Any) -> list[str]:
    """Return the addresses of the users in a list."""
    response = await service.admin().ListUsers(pb.ListUsersRequest(**filters))
    return [user.email for user in response.users]


async def set_roles(service: Service, user_id: str, *roles: str) -> pb.User:
    request = pb.SetUserRolesRequest(user_id=user_id, roles=roles)
    return (await service.admin().SetUserRoles(request)).user


async def events(service: Service, event_type: str) -> list[dict[str, Any]]:
    """Return the callers and details of the events of a type, oldest first."""
    found = await service.fetch(
        "SELECT caller, user_id::text, detail FROM audit_events WHERE type = $1 ORDER BY event_id",
        event_type,
    )
    return [dict(row) | {"detail": json.loads(row["detail"])} for row in found]


def by_admin(service: Service, found: list[dict[str, Any]]) -> bool:
    """Return whether each event names the operator that called."""
    return bool(found) and all(event["caller"].endswith("/admin") for event in found)


# Reading


async def test_user_is_shown_with_all_that_operators_need(service: Service) -> None:
    tokens = await service.proved_session(device_id="phone")
    await give_everything(service, tokens.user_id)
    shown = await get(service, tokens.user_id)
    assert (shown.email, list(shown.roles)) == (EMAIL, ["user"])
    assert (shown.status, shown.origin) == (pb.USER_STATUS_ACTIVE, pb.USER_ORIGIN_REGISTER)
    assert shown.HasField("create_time")
    assert shown.HasField("update_time")
    assert shown.HasField("email_verify_time")
    assert shown.last_login_time.ToDatetime() >= shown.create_time.ToDatetime()
    assert (shown.has_password, shown.password_change_required) == (True, False)
    assert (shown.failed_logins, shown.HasField("lock"), shown.HasField("device_lock")) == (0, 0, 0)
    # The factors were never confirmed.
    assert (list(shown.factor_kinds), list(shown.providers)) == (["recovery_code"], ["github"])
    await service.fetch("UPDATE factors SET confirm_time = now()")
    shown = await get(service, email=EMAIL.upper())
    assert list(shown.factor_kinds) == ["passkey", "totp", "recovery_code"]
    for request in (pb.GetUserRequest(user_id=NOBODY), pb.GetUserRequest(email=OTHER)):
        assert await outcome(service.admin().GetUser(request)) == "USER_NOT_FOUND"
    assert await outcome(service.admin().GetUser(pb.GetUserRequest())) == "FIELD_INVALID"


async def test_own_account_shows_last_login(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session()
    clock.advance(timedelta(minutes=1))
    await timed.login()
    account = (
        await timed.account().GetAccount(GetAccountRequest(), metadata=bearer(tokens))
    ).account
    assert account.last_login_time.ToDatetime() - account.create_time.ToDatetime() >= timedelta(
        minutes=1
    )


async def test_users_are_listed_by_filters_page_by_page(service: Service) -> None:
    ids = {email: await service.register(email) for email in (OTHER, "ada@a.test", "adam@a.test")}
    await service.admin().DisableUser(pb.DisableUserRequest(user_id=ids[OTHER]))
    assert set(await listed(service)) == set(ids)
    assert await listed(service, email_prefix="ADA") == ["ada@a.test", "adam@a.test"]
    assert await listed(service, status=pb.USER_STATUS_DISABLED) == [OTHER]
    assert await listed(service, verified=True) == []
    assert len(await listed(service, verified=False)) == 3
    assert await listed(service, from_create_time=Timestamp(seconds=253_402_300_799)) == []
    page = await service.admin().ListUsers(pb.ListUsersRequest(role="user", page_size=2))
    assert len(page.users) == 2
    rest = await listed(service, role="user", page_token=page.next_page_token)
    assert {user.email for user in page.users} | set(rest) == set(ids)
    for wrong in ({"role": "editor"}, {"role": "user", "verified": False}, {}):
        call = listed(service, page_token=page.next_page_token, **wrong)
        assert await outcome(call) == "FIELD_INVALID"
    assert await outcome(listed(service, page_size=1_001)) == "FIELD_INVALID"
    assert await outcome(listed(service, status=7)) == "FIELD_INVALID"


# Creation


async def test_created_user_logs_in(service: Service) -> None:
    request = pb.CreateUserRequest(
        email=EMAIL,
        password=PASSWORD,
        display_name="Ada",
        roles=["user", "editor", "user"],
        email_verified=True,
    )
    user = (await service.admin().CreateUser(request)).user
    assert (user.display_name, list(user.roles)) == ("Ada", ["user", "editor"])
    assert user.origin == pb.USER_ORIGIN_OPERATOR
    assert user.HasField("email_verify_time")
    await service.login()
    created = await events(service, "user.create")
    assert by_admin(service, created)
    assert [event["user_id"] for event in created] == [user.user_id]
    assert await outcome(service.admin().CreateUser(request)) == "EMAIL_TAKEN"


async def test_user_without_password_sets_one_with_a_code(service: Service) -> None:
    request = pb.CreateUserRequest(email=EMAIL, email_verified=True)
    user = (await service.admin().CreateUser(request)).user
    assert (user.has_password, list(user.roles)) == (False, ["user"])
    assert await outcome(service.login()) == "CREDENTIALS_INVALID"
    await reset(service, user.user_id, PASSWORD)
    await service.login()


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("roles", {"roles": ["user", "emperor"]}),
        ("email", {"email": "nobody"}),
        ("password", {"password": "short"}),
        ("display_name", {"display_name": "a\nb"}),
        ("request_id", {"request_id": "1"}),
        ("request_id", {"request_id": "00000000-0000-0000-0000-000000000000"}),
    ],
)
async def test_invalid_user_is_not_created(
    service: Service, field: str, values: dict[str, Any]
) -> None:
    request = pb.CreateUserRequest(**({"email": EMAIL, "password": PASSWORD} | values))
    with pytest.raises(AioRpcError) as refused:
        await service.admin().CreateUser(request)
    assert set(fields_of(refused.value)) == {field}
    if field == "roles":
        # The known roles are named.
        assert '"boss", "editor", "user"' in (refused.value.details() or "")
    assert await listed(service) == []


async def test_repeated_request_creates_one_user(service: Service) -> None:
    request = pb.CreateUserRequest(email=EMAIL, password=PASSWORD, request_id=str(uuid4()))
    made = await asyncio.gather(*(service.admin().CreateUser(request) for _ in range(12)))
    assert len({response.user.user_id for response in made}) == 1
    assert len(await events(service, "user.create")) == 1
    # The answer shows the user as it is by now.
    user_id = made[0].user.user_id
    await set_roles(service, user_id, "editor")
    assert list((await service.admin().CreateUser(request)).user.roles) == ["editor"]
    other = pb.CreateUserRequest(email=OTHER, password=PASSWORD, request_id=request.request_id)
    assert await outcome(service.admin().CreateUser(other)) == "REQUEST_ID_REUSED"
    await service.admin().DeleteUser(pb.DeleteUserRequest(user_id=user_id))
    assert await outcome(service.admin().CreateUser(request)) == "USER_NOT_FOUND"


async def test_address_is_taken_once_by_requests_at_once(service: Service) -> None:
    ends = await asyncio.gather(
        *(
            outcome(
                service.admin().CreateUser(
                    pb.CreateUserRequest(email=EMAIL, password=PASSWORD, request_id=str(uuid4()))
                )
            )
            for _ in range(12)
        )
    )
    assert sorted(ends) == ["EMAIL_TAKEN"] * 11 + ["OK"]
    # What was refused left no receipt behind.
    (receipts,) = await service.fetch("SELECT count(*) FROM request_receipts")
    assert receipts["count"] == 1


# Changes


async def update(service: Service, user_id: str, *paths: str, **values: Any) -> pb.User:
    mask = FieldMask(paths=paths or tuple(values))
    request = pb.UpdateUserRequest(user_id=user_id, update_mask=mask, **values)
    return (await service.admin().UpdateUser(request)).user


async def test_only_masked_fields_change(service: Service) -> None:
    user_id = await service.register()
    user = await update(service, user_id, "display_name", display_name="Ada", email=OTHER)
    assert (user.display_name, user.email) == ("Ada", EMAIL)
    user = await update(service, user_id, email_verified=True)
    assert user.HasField("email_verify_time")
    user = await update(service, user_id, "display_name")
    assert (user.display_name, user.HasField("email_verify_time")) == ("", True)
    changed = await events(service, "user.update")
    assert by_admin(service, changed)
    assert [event["detail"] for event in changed] == [
        {"fields": ["display_name"]},
        {"fields": ["email_verified"]},
        {"fields": ["display_name"]},
    ]
    for paths in (["roles"], ["*"], ["display_name", "user_id"], ["Display_Name"]):
        assert await outcome(update(service, user_id, *paths)) == "FIELD_INVALID"
    assert await outcome(update(service, user_id)) == "FIELD_INVALID"
    assert await outcome(update(service, NOBODY, display_name="x")) == "USER_NOT_FOUND"


async def test_new_address_is_unverified_and_announced_to_the_old(service: Service) -> None:
    tokens = await service.proved_session()
    code = await start_reset(service, tokens.user_id)
    user = await update(service, tokens.user_id, email=OTHER)
    assert (user.email, user.HasField("email_verify_time")) == (OTHER, False)
    (notice,) = await service.fetch("SELECT kind, user_id FROM outbox WHERE kind = 'email_changed'")
    assert notice["user_id"] is None
    assert by_admin(service, await events(service, "user.email_change"))
    request = ResetPasswordRequest(email=OTHER, code=code, new_password=NEW)
    assert await outcome(service.auth().ResetPassword(request)) == "CODE_INVALID"
    user = await update(service, tokens.user_id, email=EMAIL, email_verified=True)
    assert user.HasField("email_verify_time")
    # Nor does it come back with the address.
    request.email = EMAIL
    assert await outcome(service.auth().ResetPassword(request)) == "CODE_INVALID"
    # Another spelling of the same address is no other address.
    user = await update(service, tokens.user_id, email=EMAIL.swapcase())
    assert (user.email, user.HasField("email_verify_time")) == (EMAIL.swapcase(), True)
    await service.register(OTHER)
    assert await outcome(update(service, tokens.user_id, email=OTHER)) == "EMAIL_TAKEN"
    assert await outcome(update(service, tokens.user_id, email="x")) == "EMAIL_INVALID"


# Roles


async def claims(service: Service, access_token: str, **more: Any) -> tuple[list[str], list[str]]:
    """Return the roles and scopes of a token, which must be active."""
    request = ValidateTokenRequest(access_token=access_token, **more)
    response = await service.auth("edge").ValidateToken(request)
    assert response.active
    return list(response.claims.roles), list(response.claims.scopes)


async def test_tokens_and_keys_lose_what_the_roles_no_longer_grant(service: Service) -> None:
    user_id = (await service.new_session()).user_id
    await set_roles(service, user_id, "user", "editor")
    tokens = await service.login()
    assert await claims(service, tokens.access_token) == (["user", "editor"], ["read", "write"])
    key = (
        await service.account().CreateApiKey(
            CreateApiKeyRequest(name="ci", scopes=["write"]), metadata=bearer(tokens)
        )
    ).api_key
    wanted = ValidateApiKeyRequest(api_key=key, required_scopes=["write"])
    assert (await service.auth("edge").ValidateApiKey(wanted)).active

    user = await set_roles(service, user_id, "user")
    assert list(user.roles) == ["user"]

    async def outdated() -> bool:
        return await service.judge_token(tokens.access_token) == "TOKEN_OUTDATED"

    await until(outdated)
    assert await service.judge_token(tokens.access_token, strict=True) == "TOKEN_OUTDATED"
    assert not (await service.auth("edge").ValidateApiKey(wanted)).active
    # The session goes on, and its next token has the new roles.
    renewed = await service.refresh(tokens.refresh_token)
    assert await claims(service, renewed.access_token) == (["user"], ["read"])
    await set_roles(service, user_id, "user", "editor")
    renewed = await service.refresh(renewed.refresh_token)
    assert await claims(service, renewed.access_token) == (["user", "editor"], ["read", "write"])
    found = await events(service, "user.roles_set")
    assert by_admin(service, found)
    assert found[1]["detail"] == {"added": [], "removed": ["editor"]}


async def test_no_token_keeps_lost_roles_however_refreshes_race(service: Service) -> None:
    tokens = await service.new_session()
    for _ in range(5):
        await set_roles(service, tokens.user_id, "user", "editor")
        tokens = await service.refresh(tokens.refresh_token)
        refreshing = asyncio.create_task(service.refresh(tokens.refresh_token))
        await set_roles(service, tokens.user_id, "user")
        renewed = await refreshing
        assert await service.judge_token(tokens.access_token, strict=True) == "TOKEN_OUTDATED"
        # It was issued before the loss, or after.
        if await service.judge_token(renewed.access_token, strict=True) == "":
            seen = await claims(service, renewed.access_token, strict=True)
            assert seen == (["user"], ["read"])
        tokens = await service.refresh(renewed.refresh_token)
        assert await claims(service, tokens.access_token) == (["user"], ["read"])


async def test_role_that_requires_a_factor_ends_sessions(service: Service) -> None:
    tokens = await service.proved_session()
    await set_roles(service, tokens.user_id, "user", "editor")
    assert await service.judge_token(tokens.access_token, strict=True) == ""
    await set_roles(service, tokens.user_id, "user", "boss")
    assert await service.judge_token(tokens.access_token, strict=True) == "SESSION_REVOKED"
    login = await service.auth().Login(LoginRequest(email=EMAIL, password=PASSWORD))
    assert login.HasField("mfa")


async def test_roles_defined_at_run_time_can_be_given(service: Service) -> None:
    tokens = await service.proved_session()
    role = pb.UserRole(name="auditor", permissions=["audit"], requires_second_factor=True)
    await service.admin().PutRole(pb.PutRoleRequest(role=role))
    await set_roles(service, tokens.user_id, "user", "auditor")
    assert await service.judge_token(tokens.access_token, strict=True) == "SESSION_REVOKED"
    created = pb.CreateUserRequest(email=OTHER, roles=["auditor"])
    assert list((await service.admin().CreateUser(created)).user.roles) == ["auditor"]


async def test_roles_are_refused_as_a_whole(service: Service) -> None:
    user_id = await service.register()
    with pytest.raises(AioRpcError) as refused:
        await set_roles(service, user_id, "editor", "emperor")
    assert "emperor" in (refused.value.details() or "")
    assert '"boss", "editor", "user"' in (refused.value.details() or "")
    assert list((await get(service, user_id)).roles) == ["user"]
    assert await outcome(set_roles(service, NOBODY, "user")) == "USER_NOT_FOUND"
    assert list((await set_roles(service, user_id)).roles) == []
    assert await listed(service, role="user") == []


# Status and locks


async def test_disabled_user_is_shut_out_until_enabled(service: Service) -> None:
    tokens = await service.new_session()
    created = await service.account().CreateApiKey(
        CreateApiKeyRequest(name="ci"), metadata=bearer(tokens)
    )
    request = pb.DisableUserRequest(user_id=tokens.user_id)
    user = (await service.admin().DisableUser(request)).user
    assert user.status == pb.USER_STATUS_DISABLED
    assert await outcome(service.login()) == "CREDENTIALS_INVALID"
    assert await service.judge_token(tokens.access_token, strict=True) == "SESSION_REVOKED"
    validate = ValidateApiKeyRequest(api_key=created.api_key)
    reason = (await service.auth("edge").ValidateApiKey(validate)).inactive_reason
    assert reason == InactiveReason.INACTIVE_REASON_USER_DISABLED
    assert await outcome(start_reset(service, tokens.user_id)) == "USER_DISABLED"
    enabled = await service.admin().EnableUser(pb.EnableUserRequest(user_id=tokens.user_id))
    assert enabled.user.status == pb.USER_STATUS_ACTIVE
    await service.login()
    assert (await service.auth("edge").ValidateApiKey(validate)).active
    assert await service.judge_token(tokens.access_token, strict=True) == "SESSION_REVOKED"
    assert by_admin(service, await events(service, "user.disable"))
    assert by_admin(service, await events(service, "user.enable"))


async def test_no_session_outlives_disabling_however_logins_race(service: Service) -> None:
    user_id = await service.register()
    for _ in range(3):
        logins = [asyncio.create_task(outcome(service.login())) for _ in range(6)]
        await asyncio.sleep(0)
        await service.admin().DisableUser(pb.DisableUserRequest(user_id=user_id))
        assert set(await asyncio.gather(*logins)) <= {"OK", "CREDENTIALS_INVALID"}
        (left,) = await service.fetch("SELECT count(*) FROM sessions WHERE revoke_time IS NULL")
        assert left["count"] == 0
        await service.admin().EnableUser(pb.EnableUserRequest(user_id=user_id))


async def test_unlocked_user_logs_in_at_once(service: Service) -> None:
    tokens = await service.new_session(ip="192.0.2.1", device_id="phone")
    for client in ({"ip": "192.0.2.1"}, {"ip": "192.0.2.1", "device_id": "phone"}, {}):
        ends = set()
        for _ in range(30):
            end = await outcome(service.login(password=WRONG, **client))
            ends.add(end)
            if end == "TOO_MANY_ATTEMPTS":
                break
        assert "TOO_MANY_ATTEMPTS" in ends
    shown = await get(service, tokens.user_id)
    assert shown.lock.HasField("expire_time")
    assert shown.device_lock.HasField("expire_time")
    assert min(shown.failed_logins, shown.failed_device_logins) > 0
    request = pb.UnlockUserRequest(user_id=tokens.user_id)
    shown = (await service.admin().UnlockUser(request)).user
    assert (shown.failed_logins, shown.failed_device_logins) == (0, 0)
    assert not shown.HasField("lock")
    assert not shown.HasField("device_lock")
    for client in ({"ip": "192.0.2.1"}, {"ip": "192.0.2.1", "device_id": "phone"}, {}):
        await service.login(**client)
    assert by_admin(service, await events(service, "user.unlock"))
    unknown = pb.UnlockUserRequest(user_id=NOBODY)
    assert await outcome(service.admin().UnlockUser(unknown)) == "USER_NOT_FOUND"


async def test_user_who_failed_too_often_in_a_row_is_unlocked(service: Service) -> None:
    user_id = await service.register()
    await service.fetch("UPDATE users SET failed_logins = 50")
    shown = await get(service, user_id)
    assert (shown.HasField("lock"), shown.lock.HasField("expire_time")) == (True, False)
    assert await outcome(service.login()) == "CREDENTIALS_INVALID"
    await service.admin().UnlockUser(pb.UnlockUserRequest(user_id=user_id))
    await service.login()


# Passwords


async def start_reset(service: Service, user_id: str) -> str:
    """Return the code of a password reset that an operator started."""
    request = pb.StartPasswordResetRequest(user_id=user_id, delivery=DELIVERY_RETURN)
    return (await service.admin("issuer").StartPasswordReset(request)).code


async def reset(service: Service, user_id: str, password: str) -> None:
    code = await start_reset(service, user_id)
    request = ResetPasswordRequest(email=EMAIL, code=code, new_password=password)
    await service.auth().ResetPassword(request)


async def test_reset_is_sent_or_returned(service: Service) -> None:
    user_id = await service.register()
    request = pb.StartPasswordResetRequest(user_id=user_id)
    response = await service.admin().StartPasswordReset(request)
    assert (response.code, response.HasField("expire_time")) == ("", True)
    (message,) = await service.fetch("SELECT user_id FROM outbox WHERE kind = 'reset_password'")
    assert str(message["user_id"]) == user_id
    assert by_admin(service, await events(service, "user.password_reset_request"))
    # Whoever gets codes returned can take over any account: that needs a role of its own.
    request.delivery = DELIVERY_RETURN
    assert await outcome(service.admin().StartPasswordReset(request)) == "CALLER_NOT_ALLOWED"
    await reset(service, user_id, NEW)
    await service.login(password=NEW)
    assert await outcome(start_reset(service, NOBODY)) == "USER_NOT_FOUND"


async def require_change(service: Service, user_id: str, *, keep: bool = False) -> int:
    request = pb.RequirePasswordChangeRequest(user_id=user_id, keep_sessions=keep)
    return (await service.admin().RequirePasswordChange(request)).revoked_count


async def test_password_opens_no_session_until_changed(service: Service) -> None:
    tokens = await service.proved_session()
    assert await require_change(service, tokens.user_id) == 1
    assert (await get(service, tokens.user_id)).password_change_required
    assert await service.judge_token(tokens.access_token, strict=True) == "SESSION_REVOKED"
    assert await outcome(service.login()) == "PASSWORD_CHANGE_REQUIRED"
    assert await outcome(service.login(password=WRONG)) == "CREDENTIALS_INVALID"
    causes = [event["detail"]["cause"] for event in await events(service, "user.login_failure")]
    assert causes == ["password_change", "password"]
    # Not the same one again; the code stays valid.
    code = await start_reset(service, tokens.user_id)
    request = ResetPasswordRequest(email=EMAIL, code=code, new_password=PASSWORD)
    assert await outcome(service.auth().ResetPassword(request)) == "PASSWORD_WEAK"
    assert await outcome(service.login()) == "PASSWORD_CHANGE_REQUIRED"
    request.code = "WRONG-CODE"
    assert await outcome(service.auth().ResetPassword(request)) == "CODE_INVALID"
    request.code, request.new_password = code, NEW
    await service.auth().ResetPassword(request)
    assert not (await get(service, tokens.user_id)).password_change_required
    await service.login(password=NEW)
    assert by_admin(service, await events(service, "user.password_change_require"))
    assert await outcome(require_change(service, NOBODY)) == "USER_NOT_FOUND"


async def test_password_is_changed_in_a_session_that_was_kept(service: Service) -> None:
    tokens = await service.new_session()
    assert await require_change(service, tokens.user_id, keep=True) == 0
    assert await service.judge_token(tokens.access_token, strict=True) == ""
    assert await outcome(service.login()) == "PASSWORD_CHANGE_REQUIRED"

    async def change(new: str) -> None:
        request = ChangePasswordRequest(current_password=PASSWORD, new_password=new)
        await service.account().ChangePassword(request, metadata=bearer(tokens))

    assert await outcome(change(PASSWORD)) == "PASSWORD_WEAK"
    await change(NEW)
    await service.login(password=NEW)


async def test_password_opens_no_session_however_logins_race(service: Service) -> None:
    user_id = await service.register()
    logins = [asyncio.create_task(outcome(service.login())) for _ in range(8)]
    await asyncio.sleep(0)
    await require_change(service, user_id)
    assert set(await asyncio.gather(*logins)) <= {"OK", "PASSWORD_CHANGE_REQUIRED"}
    (left,) = await service.fetch("SELECT count(*) FROM sessions WHERE revoke_time IS NULL")
    assert left["count"] == 0


async def test_login_that_waits_for_a_factor_ends_with_the_password(service: Service) -> None:
    tokens = await service.proved_session()
    await set_roles(service, tokens.user_id, "boss")
    login = await service.auth().Login(LoginRequest(email=EMAIL, password=PASSWORD))
    assert login.HasField("mfa")
    await require_change(service, tokens.user_id, keep=True)
    (waiting,) = await service.fetch("SELECT count(*) FROM challenges WHERE kind = 'mfa'")
    assert waiting["count"] == 0


# Erasure and export


async def test_deleted_user_leaves_events_without_personal_data(service: Service) -> None:
    request = pb.CreateUserRequest(
        email=EMAIL, password=PASSWORD, email_verified=True, request_id=str(uuid4())
    )
    user = (await service.admin().CreateUser(request)).user
    tokens = await service.login(ip="192.0.2.99")
    await give_everything(service, user.user_id)
    await set_roles(service, user.user_id, "editor")
    await service.admin().DeleteUser(pb.DeleteUserRequest(user_id=user.user_id))
    assert await tables_that_say(service, EMAIL, "192.0.2.99") == set()
    assert await tables_that_say(service, user.user_id) == {
        "audit_events",
        "request_receipts",
        "revocations",
    }
    assert by_admin(service, await events(service, "user.delete"))
    (roles,) = await events(service, "user.roles_set")
    assert roles["detail"] == {"added": ["editor"], "removed": ["user"]}
    assert await service.judge_token(tokens.access_token, strict=True) == "SESSION_UNKNOWN"
    again = service.admin().DeleteUser(pb.DeleteUserRequest(user_id=user.user_id))
    assert await outcome(again) == "USER_NOT_FOUND"


async def test_deletion_beside_everything_else_ends_cleanly(service: Service) -> None:
    for number in range(3):
        email = f"user{number}@example.test"
        tokens = await service.new_session(email)
        user_id, admin = tokens.user_id, service.admin()
        calls: list[Any] = [
            service.login(email),
            service.refresh(tokens.refresh_token),
            set_roles(service, user_id, "editor"),
            update(service, user_id, display_name="Ada"),
            require_change(service, user_id),
            start_reset(service, user_id),
            admin.UnlockUser(pb.UnlockUserRequest(user_id=user_id)),
            admin.DisableUser(pb.DisableUserRequest(user_id=user_id)),
            admin.DeleteUser(pb.DeleteUserRequest(user_id=user_id)),
            admin.DeleteUser(pb.DeleteUserRequest(user_id=user_id)),
            admin.EnableUser(pb.EnableUserRequest(user_id=user_id)),
        ]
        ends = await asyncio.gather(*map(outcome, calls))
        assert set(ends) <= {
            "OK",
            "USER_NOT_FOUND",
            "USER_DISABLED",
            "CREDENTIALS_INVALID",
            "REFRESH_TOKEN_INVALID",
            "PASSWORD_CHANGE_REQUIRED",
        }
        assert ends[8:10].count("OK") == 1
        assert await service.judge_token(tokens.access_token, strict=True) == "SESSION_UNKNOWN"
    assert await service.fetch("SELECT FROM users") == []
    assert await service.fetch("SELECT FROM user_roles") == []


async def export(service: Service, **options: Any) -> list[pb.ExportUsersResponse]:
    call = service.admin().ExportUsers(pb.ExportUsersRequest(**options))
    return [part async for part in call]


def users_in(parts: list[pb.ExportUsersResponse]) -> list[dict[str, Any]]:
    return [json.loads(line) for part in parts for line in part.chunk.splitlines()]


async def test_export_is_resumed_where_it_was_interrupted(service: Service) -> None:
    await service.fetch(
        "INSERT INTO users (user_id, email, email_canonical, create_time, update_time)"
        " SELECT gen_random_uuid(), n || '@x.test', n || '@x.test', now(), now()"
        " FROM generate_series(1, 1500) AS n"
    )
    parts = await export(service)
    assert len(parts) > 2
    assert max(len(part.chunk) for part in parts) <= 60 * 1_024
    everybody = users_in(parts)
    assert len({user["user_id"] for user in everybody}) == 1_500
    rest = await export(service, page_token=parts[0].next_page_token)
    assert users_in(parts[:1]) + users_in(rest) == everybody
    assert users_in(await export(service, page_token=parts[-1].next_page_token)) == []
    details = [event["detail"] for event in await events(service, "users.export")]
    assert details[0] == {"with_passwords": False}
    assert details[1] == {"with_passwords": False, "resumed": True}
    for token in ("x", "AAAA", "?"):
        assert await outcome(export(service, page_token=token)) == "FIELD_INVALID"


async def test_hashes_are_exported_only_if_asked_for(service: Service) -> None:
    await service.register()
    (plain,) = users_in(await export(service))
    assert "password_hash" not in plain
    (full,) = users_in(await export(service, include_password_hashes=True))
    assert full["password_hash"].startswith("v1$argon2id$")


async def test_exports_at_once_are_limited(service: Service) -> None:
    await service.fetch(
        "INSERT INTO users (user_id, email, email_canonical, display_name, create_time,"
        " update_time) SELECT gen_random_uuid(), n || '@x.test', n || '@x.test', repeat('x', 4000),"
        " now(), now() FROM generate_series(1, 4000) AS n"
    )
    held = [service.admin().ExportUsers(pb.ExportUsersRequest()) for _ in range(16)]
    for call in held:
        await call.read()
    assert await outcome(export(service)) == "OVERLOADED"
    for call in held:
        call.cancel()

    async def free() -> bool:
        return await outcome(export(service)) == "OK"

    await until(free)


async def test_tokens_with_lost_roles_are_refused_by_other_replicas_too(
    start_service: StartService, live_settings: Settings
) -> None:
    first = await start_service(live_settings)
    second = await start_service(live_settings)
    tokens: Tokens = await first.new_session()
    await set_roles(first, tokens.user_id, "user", "editor")
    tokens = await first.login()
    assert (await claims(second, tokens.access_token))[0] == ["user", "editor"]
    await set_roles(first, tokens.user_id, "user")

    async def outdated() -> bool:
        return await second.judge_token(tokens.access_token) == "TOKEN_OUTDATED"

    await until(outdated)
