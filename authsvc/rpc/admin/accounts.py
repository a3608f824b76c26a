"""Owns the RPCs of AdminService about users."""

from authsvc.core.accounts.accounts import NewUser
from authsvc.core.accounts.administration import ProfileChange
from authsvc.core.lib.emails import parse_email
from authsvc.core.roles.permissions import DEFAULT_ROLES
from authsvc.errors import FieldInvalid
from authsvc.models.ids import UserId
from authsvc.rpc import Context, convert
from authsvc.rpc.account.messages import display_name
from authsvc.rpc.admin.user_messages import roles, user_filter, user_message
from authsvc.rpc.call_context import current_call
from authsvc.rpc.login_messages import delivery, returned_code
from authsvc.rpc.topic import Topic
from authsvc.v1 import admin_service_pb2 as pb

_MASKABLE = ("display_name", "email", "email_verified")


class AccountRpcs(Topic):
    """Users, as operators look after them."""

    async def GetUser(self, request: pb.GetUserRequest, _context: Context) -> pb.GetUserResponse:
        """Return a user, by id or address."""
        match request.WhichOneof("user"):
            case "user_id":
                account: UserId | str = convert.user_id(request.user_id)
            case "email":
                account = parse_email(convert.email(request.email)).canonical
            case _:
                raise FieldInvalid("user_id", "must be given, or email")
        return pb.GetUserResponse(user=user_message(await self._use.account_listing.find(account)))

    async def ListUsers(
        self, request: pb.ListUsersRequest, _context: Context
    ) -> pb.ListUsersResponse:
        """Return a page of the users that match all filters."""
        page = await self._use.account_listing.list(
            user_filter(request),
            request.page_size,
            convert.text(request.page_token, "page_token", 1_024),
        )
        users = await self._use.slices.map(user_message, page.users)
        return pb.ListUsersResponse(users=users, next_page_token=page.next_page_token)

    async def CreateUser(
        self, request: pb.CreateUserRequest, _context: Context
    ) -> pb.CreateUserResponse:
        """Create a user; the same request again returns the same user."""
        user = NewUser(
            email=convert.email(request.email),
            password=convert.password(request.password, required=False),
            display_name=display_name(request.display_name),
            roles=roles(request.roles) or DEFAULT_ROLES,
            verified=request.email_verified,
        )
        made = convert.create_request(request.request_id, request)
        user_id = await self._use.accounts.create_user(current_call(), user, made)
        return pb.CreateUserResponse(user=await self._shown(user_id))

    async def UpdateUser(
        self, request: pb.UpdateUserRequest, _context: Context
    ) -> pb.UpdateUserResponse:
        """Change the fields of a user that the mask names."""
        user_id = convert.user_id(request.user_id)
        await self._use.user_administration.update(current_call(), user_id, _change(request))
        return pb.UpdateUserResponse(user=await self._shown(user_id))

    async def SetUserRoles(
        self, request: pb.SetUserRolesRequest, _context: Context
    ) -> pb.SetUserRolesResponse:
        """Replace a user's roles."""
        user_id = convert.user_id(request.user_id)
        cursor = await self._use.user_administration.set_roles(
            current_call(), user_id, roles(request.roles)
        )
        return pb.SetUserRolesResponse(
            user=await self._shown(user_id), revocation_cursor=convert.revocation_cursor(cursor)
        )

    async def DisableUser(
        self, request: pb.DisableUserRequest, _context: Context
    ) -> pb.DisableUserResponse:
        """Disable a user and end all sessions."""
        user_id = convert.user_id(request.user_id)
        cursor = await self._use.accounts.disable(current_call(), user_id)
        return pb.DisableUserResponse(
            user=await self._shown(user_id), revocation_cursor=convert.revocation_cursor(cursor)
        )

    async def EnableUser(
        self, request: pb.EnableUserRequest, _context: Context
    ) -> pb.EnableUserResponse:
        """Enable a user again."""
        user_id = convert.user_id(request.user_id)
        await self._use.accounts.enable(current_call(), user_id)
        return pb.EnableUserResponse(user=await self._shown(user_id))

    async def UnlockUser(
        self, request: pb.UnlockUserRequest, _context: Context
    ) -> pb.UnlockUserResponse:
        """Forget a user's failed logins, and what the account's limits have counted."""
        user_id = convert.user_id(request.user_id)
        await self._use.user_administration.unlock(current_call(), user_id)
        return pb.UnlockUserResponse(user=await self._shown(user_id))

    async def StartPasswordReset(
        self, request: pb.StartPasswordResetRequest, _context: Context
    ) -> pb.StartPasswordResetResponse:
        """Issue a code with which a user can set a password."""
        requested = delivery(request.delivery)
        issued = await self._use.user_administration.start_password_reset(
            current_call(), convert.user_id(request.user_id), requested
        )
        return pb.StartPasswordResetResponse(
            code=returned_code(issued.code, requested),
            expire_time=convert.timestamp(issued.expire_time),
        )

    async def RequirePasswordChange(
        self, request: pb.RequirePasswordChangeRequest, _context: Context
    ) -> pb.RequirePasswordChangeResponse:
        """Let a user's present password open no more sessions."""
        ended = await self._use.user_administration.require_password_change(
            current_call(),
            convert.user_id(request.user_id),
            keep_sessions=request.keep_sessions,
        )
        return pb.RequirePasswordChangeResponse(
            revoked_count=ended.count, revocation_cursor=convert.revocation_cursor(ended.cursor)
        )

    async def DeleteUser(
        self, request: pb.DeleteUserRequest, _context: Context
    ) -> pb.DeleteUserResponse:
        """Erase a user."""
        user_id = convert.user_id(request.user_id)
        cursor = await self._use.account_deletion.erase(current_call(), user_id)
        return pb.DeleteUserResponse(revocation_cursor=convert.revocation_cursor(cursor))

    async def _shown(self, user_id: UserId) -> pb.User:
        return user_message(await self._use.account_listing.find(user_id))


def _change(request: pb.UpdateUserRequest) -> ProfileChange:
    paths = set(request.update_mask.paths)
    if not paths or not paths.issubset(_MASKABLE):
        raise FieldInvalid("update_mask", f"must name some of: {', '.join(_MASKABLE)}")
    return ProfileChange(
        display_name=display_name(request.display_name) if "display_name" in paths else None,
        email=convert.email(request.email) if "email" in paths else None,
        email_verified=request.email_verified if "email_verified" in paths else None,
    )
