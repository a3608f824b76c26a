"""Valid requests of AdminService about users."""

from collections.abc import Callable, Mapping
from itertools import count
from uuid import uuid4

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from authsvc.core.lib import base64url
from authsvc.v1 import admin_service_pb2 as pb
from authsvc.v1.common_pb2 import DELIVERY_SEND, Tokens
from tests.support.accounts import PASSWORD

_numbers = count()


def _list_users(_: Tokens) -> Message:
    return pb.ListUsersRequest(
        page_size=1,
        email_prefix="a",
        role="user",
        status=pb.USER_STATUS_ACTIVE,
        verified=False,
        provider="github",
        from_create_time=Timestamp(seconds=1),
        until_create_time=Timestamp(seconds=2),
        from_last_login_time=Timestamp(seconds=1),
        until_last_login_time=Timestamp(seconds=2),
    )


def _create_user(_: Tokens) -> Message:
    return pb.CreateUserRequest(
        email=f"created{next(_numbers)}@example.test",
        password=PASSWORD,
        display_name="Ada",
        roles=["user"],
        email_verified=True,
        request_id=str(uuid4()),
    )


def _update_user(tokens: Tokens) -> Message:
    return pb.UpdateUserRequest(
        user_id=tokens.user_id,
        display_name="Ada",
        email=f"updated{next(_numbers)}@example.test",
        email_verified=True,
        update_mask=FieldMask(paths=["display_name", "email", "email_verified"]),
    )


VALID: Mapping[str, Callable[[Tokens], Message]] = {
    "AdminService/GetUser": lambda tokens: pb.GetUserRequest(user_id=tokens.user_id),
    "AdminService/ListUsers": _list_users,
    "AdminService/CreateUser": _create_user,
    "AdminService/UpdateUser": _update_user,
    "AdminService/SetUserRoles": lambda tokens: pb.SetUserRolesRequest(
        user_id=tokens.user_id, roles=["user"]
    ),
    "AdminService/DisableUser": lambda tokens: pb.DisableUserRequest(user_id=tokens.user_id),
    "AdminService/EnableUser": lambda tokens: pb.EnableUserRequest(user_id=tokens.user_id),
    "AdminService/UnlockUser": lambda tokens: pb.UnlockUserRequest(user_id=tokens.user_id),
    "AdminService/StartPasswordReset": lambda tokens: pb.StartPasswordResetRequest(
        user_id=tokens.user_id, delivery=DELIVERY_SEND
    ),
    "AdminService/RequirePasswordChange": lambda tokens: pb.RequirePasswordChangeRequest(
        user_id=tokens.user_id, keep_sessions=True
    ),
    "AdminService/DeleteUser": lambda tokens: pb.DeleteUserRequest(user_id=tokens.user_id),
    # After the last user, as ids of users are in the log too.
    "AdminService/ExportUsers": lambda _: pb.ExportUsersRequest(
        include_password_hashes=True, page_token=base64url.encode(b"\xff" * 16)
    ),
}
