"""Owns the chapter about operators: how they look after users."""

import secrets
from uuid import uuid4

from authsvc.cli.demo.tour import Tour, new_email
from authsvc.v1 import admin_service_pb2 as pb
from authsvc.v1.auth_service_pb2 import (
    RefreshTokensRequest,
    RequestPasswordResetRequest,
    ResetPasswordRequest,
    ValidateTokenRequest,
)
from authsvc.v1.common_pb2 import DELIVERY_RETURN


async def administration(tour: Tour) -> None:
    """Show how operators create, find, lock out, let in and erase users."""
    admin = tour.admin()
    tour.title("An operator creates a user; a repeated request creates no second one")
    email, password = new_email("grace"), f"Flow-Matic-{secrets.token_hex(4)}"
    request = pb.CreateUserRequest(
        email=email, password=password, email_verified=True, request_id=str(uuid4())
    )
    user = (await admin.CreateUser(request)).user
    tour.say("user", user.user_id)
    again = (await admin.CreateUser(request)).user
    tour.answer("the same request again", again.user_id, accepted=True, expected=True)
    await tour.rejected("with an unknown role", admin.CreateUser(_with_role("emperor")))

    tour.title("Users are found by any filter, and shown with their failed logins and locks")
    found = await admin.ListUsers(pb.ListUsersRequest(email_prefix=email[:12], role="user"))
    tour.say(f"address {email[:12]}…, role user", f"{len(found.users)} found")
    await tour.rejected("a wrong password", tour.login(email, "Wrong-Password-1"))
    shown = (await admin.GetUser(pb.GetUserRequest(email=email))).user
    tour.say("failed logins in a row", shown.failed_logins)
    shown = (await admin.UnlockUser(pb.UnlockUserRequest(user_id=user.user_id))).user
    tour.say("after UnlockUser", shown.failed_logins)

    tour.title("Tokens lose the roles that their user loses")
    tokens = (await tour.login(email, password)).tokens
    validate = ValidateTokenRequest(access_token=tokens.access_token, strict=True)
    claims = (await tour.auth("edge").ValidateToken(validate)).claims
    tour.say("roles of the token", ", ".join(claims.roles))
    await admin.SetUserRoles(pb.SetUserRolesRequest(user_id=user.user_id))
    claims = (await tour.auth("edge").ValidateToken(validate)).claims
    tour.say("of the same token after SetUserRoles", ", ".join(claims.roles) or "none")
    await admin.SetUserRoles(pb.SetUserRolesRequest(user_id=user.user_id, roles=["user"]))

    tour.title("A password that may have leaked opens no session until it has been changed")
    required = await admin.RequirePasswordChange(
        pb.RequirePasswordChangeRequest(user_id=user.user_id)
    )
    tour.say("sessions ended", required.revoked_count)
    await tour.rejected("the right password", tour.login(email, password))
    code = (
        await tour.auth("issuer").RequestPasswordReset(
            RequestPasswordResetRequest(email=email, delivery=DELIVERY_RETURN, client=tour.client)
        )
    ).code
    change = ResetPasswordRequest(email=email, code=code, new_password=password, client=tour.client)
    await tour.rejected("the same password again", tour.auth().ResetPassword(change))
    change.new_password = f"Cobol-Compiler-{secrets.token_hex(4)}"
    await tour.auth().ResetPassword(change)
    tokens = (await tour.login(email, change.new_password)).tokens
    tour.say("logged in with the new one, session", tokens.session_id)

    tour.title("Disabling ends everything at once; erasing leaves nothing")
    await admin.DisableUser(pb.DisableUserRequest(user_id=user.user_id))
    refresh = RefreshTokensRequest(refresh_token=tokens.refresh_token, client=tour.client)
    await tour.rejected("a refresh of a disabled user", tour.auth().RefreshTokens(refresh))
    await tour.rejected("a login", tour.login(email, change.new_password))
    await admin.DeleteUser(pb.DeleteUserRequest(user_id=user.user_id))
    await tour.rejected("the user, erased", admin.GetUser(pb.GetUserRequest(email=email)))


def _with_role(role: str) -> pb.CreateUserRequest:
    return pb.CreateUserRequest(email=new_email("eve"), roles=[role])
