"""Owns the RPCs of AdminService that define the roles of users at run time."""

import re
from collections.abc import Sequence
from datetime import timedelta

from authsvc.core.lib import paging
from authsvc.errors import FieldInvalid
from authsvc.models.definitions import DefinedIn
from authsvc.models.roles import Lifetimes, RoleDefinition
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.rpc.topic import Topic
from authsvc.v1 import admin_service_pb2 as pb

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}", re.ASCII)
_PERMISSION = re.compile(r"[!#-\[\]-~]{1,64}", re.ASCII)
_MAX_PERMISSIONS = 64
_SHORTEST, _LONGEST = timedelta(seconds=1), timedelta(days=36_500)


class RoleRpcs(Topic):
    """Roles of users."""

    async def PutRole(self, request: pb.PutRoleRequest, _context: Context) -> pb.PutRoleResponse:
        """Create or replace a role."""
        role = _role(request.role, "role")
        created = await self._use.role_definitions.put(current_call(), role)
        return pb.PutRoleResponse(role=_message(role), created=created)

    async def ListRoles(
        self, request: pb.ListRolesRequest, _context: Context
    ) -> pb.ListRolesResponse:
        """List the roles by name."""
        size = paging.page_size(request.page_size)
        after = request.page_token
        if after and not _NAME.fullmatch(after):
            raise FieldInvalid("page_token", "is not a page token of this list")
        rest = [role for role in self._use.role_definitions.list() if role.name > after]
        page, next_page_token = paging.cut(rest, size, lambda last: last.name)
        return pb.ListRolesResponse(roles=map(_message, page), next_page_token=next_page_token)

    async def DeleteRole(
        self, request: pb.DeleteRoleRequest, _context: Context
    ) -> pb.DeleteRoleResponse:
        """Delete a role; its users keep its name, which grants nothing."""
        name = role_name(request.name, "name")
        count = await self._use.role_definitions.delete(current_call(), name)
        return pb.DeleteRoleResponse(user_count=count)


def _role(message: pb.UserRole, field: str) -> RoleDefinition:
    def lifetime(name: str) -> timedelta | None:
        if not message.HasField(name):  # type: ignore[arg-type] # the names below are fields
            return None
        path = f"{field}.{name}"
        return bounded_lifetime(convert.lifetime(getattr(message, name), path), path)

    return RoleDefinition(
        name=role_name(message.name, f"{field}.name"),
        permissions=permission_names(message.permissions, f"{field}.permissions"),
        requires_second_factor=message.requires_second_factor,
        lifetimes=Lifetimes(
            lifetime("idle_lifetime"),
            lifetime("absolute_lifetime"),
            lifetime("access_token_lifetime"),
        ),
        defined_in=DefinedIn.RUN_TIME,
    )


def role_name(value: str, field: str) -> str:
    """Return the name of a role."""
    if not _NAME.fullmatch(value):
        raise FieldInvalid(field, 'must be a letter of a-z and up to 31 of a-z, 0-9, "_" and "-"')
    return value


def bounded_lifetime(value: timedelta | None, field: str) -> timedelta | None:
    """Return a role's lifetime, if it has one."""
    return None if value is None else convert.between(value, field, _SHORTEST, _LONGEST)


def permission_names(values: Sequence[str], field: str) -> tuple[str, ...]:
    """Return at most 64 names of permissions, without duplicates."""
    if len(values) > _MAX_PERMISSIONS:
        raise FieldInvalid(field, f"must have at most {_MAX_PERMISSIONS} items")
    for index, value in enumerate(values):
        if not _PERMISSION.fullmatch(value):
            raise FieldInvalid(
                f"{field}[{index}]", 'must be 1 to 64 printable ASCII characters, no blank, " or \\'
            )
    return tuple(dict.fromkeys(values))


def _message(role: RoleDefinition) -> pb.UserRole:
    message = pb.UserRole(
        name=role.name,
        permissions=role.permissions,
        requires_second_factor=role.requires_second_factor,
        defined_in=convert.defined_in(role.defined_in),
    )
    lifetimes = {
        "idle_lifetime": role.lifetimes.idle,
        "absolute_lifetime": role.lifetimes.absolute,
        "access_token_lifetime": role.lifetimes.access_token,
    }
    for name, lifetime in lifetimes.items():
        if lifetime is not None:
            convert.fill_duration(getattr(message, name), lifetime.total_seconds())
    return message
