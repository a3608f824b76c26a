"""Owns the message of a user for operators, and the filters of their lists."""

from collections.abc import Sequence
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from authsvc.errors import FieldInvalid
from authsvc.models.users import Lock, TimeRange, UserDetails, UserFilter, UserOrigin, UserStatus
from authsvc.rpc import convert
from authsvc.v1 import admin_service_pb2 as pb

_MAX_ROLES = 64
_MAX_NAME = 64


_STATUS = {
    UserStatus.ACTIVE: pb.USER_STATUS_ACTIVE,
    UserStatus.DISABLED: pb.USER_STATUS_DISABLED,
}
_ORIGIN = {
    UserOrigin.REGISTER: pb.USER_ORIGIN_REGISTER,
    UserOrigin.FEDERATED: pb.USER_ORIGIN_FEDERATED,
    UserOrigin.IMPORT: pb.USER_ORIGIN_IMPORT,
    UserOrigin.OPERATOR: pb.USER_ORIGIN_OPERATOR,
}


def user_message(user: UserDetails) -> pb.User:
    """Return a user as a message."""
    return pb.User(
        user_id=str(user.user_id),
        email=user.email,
        display_name=user.display_name,
        roles=user.roles,
        status=_STATUS[user.status],
        origin=_ORIGIN[user.origin] if user.origin else pb.USER_ORIGIN_UNSPECIFIED,
        create_time=convert.timestamp(user.create_time),
        update_time=convert.timestamp(user.update_time),
        last_login_time=_time(user.last_login_time),
        email_verify_time=_time(user.email_verify_time),
        has_password=user.has_password,
        password_change_required=user.password_change_required,
        failed_logins=user.failed_logins,
        failed_device_logins=user.failed_device_logins,
        lock=_lock(user.lock),
        device_lock=_lock(user.device_lock),
        factor_kinds=user.factor_kinds,
        providers=user.providers,
    )


def user_filter(request: pb.ListUsersRequest) -> UserFilter:
    """Return the filters of a list."""
    return UserFilter(
        email_prefix=convert.email(request.email_prefix, "email_prefix", required=False),
        role=convert.text(request.role, "role", _MAX_NAME),
        status=_status(request.status),
        verified=request.verified if request.HasField("verified") else None,
        provider=convert.text(request.provider, "provider", _MAX_NAME),
        create_time=TimeRange(
            convert.time(request, "from_create_time"), convert.time(request, "until_create_time")
        ),
        last_login_time=TimeRange(
            convert.time(request, "from_last_login_time"),
            convert.time(request, "until_last_login_time"),
        ),
    )


def roles(values: Sequence[str]) -> Sequence[str]:
    """Return at most 64 names of roles, defined or not."""
    if len(values) > _MAX_ROLES:
        raise FieldInvalid("roles", f"must have at most {_MAX_ROLES} items")
    return [
        convert.text(value, f"roles[{index}]", _MAX_NAME, required=True)
        for index, value in enumerate(values)
    ]


def _status(value: pb.UserStatus.ValueType) -> UserStatus | None:
    if value == pb.USER_STATUS_UNSPECIFIED:
        return None
    for status, known in _STATUS.items():
        if value == known:
            return status
    raise FieldInvalid("status", "must be ACTIVE or DISABLED")


def _time(time: datetime | None) -> Timestamp | None:
    return None if time is None else convert.timestamp(time)


def _lock(lock: Lock | None) -> pb.LoginLock | None:
    return None if lock is None else pb.LoginLock(expire_time=_time(lock.expire_time))
