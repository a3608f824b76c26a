"""Roles at run time on the database: their number, and which changes are revocations."""

from datetime import timedelta
from typing import Any

import pytest

from authsvc.config import TokenSettings
from authsvc.core.lib.definitions import Definitions
from authsvc.core.roles import role_definitions as module
from authsvc.core.roles.permissions import Permissions
from authsvc.core.roles.role_definitions import RoleDefinitions
from authsvc.errors import FailedPrecondition, FieldInvalid, NotFound
from authsvc.models.calls import Call
from authsvc.models.roles import Lifetimes, RoleDefinition
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock

CALL = Call("request-1", "spiffe://authsvc.test/admin")
MINUTE = timedelta(minutes=1)


@pytest.fixture
def permissions(database: Database) -> Permissions:
    permissions = Permissions({"user": ("read",)}, ["admin"])
    permissions.follow(Definitions(database, timedelta(seconds=1)))
    return permissions


@pytest.fixture
def roles(database: Database, permissions: Permissions, clock: FakeClock) -> RoleDefinitions:
    assert permissions._definitions is not None
    return RoleDefinitions(
        database=database,
        permissions=permissions,
        definitions=permissions._definitions,
        tokens=TokenSettings(),
        clock=clock,
    )


async def test_role_is_known_as_soon_as_it_is_put(
    roles: RoleDefinitions, permissions: Permissions
) -> None:
    with pytest.raises(FieldInvalid):
        permissions.check_defined(["editor"])
    await roles.put(CALL, RoleDefinition("editor", ("publish",), requires_second_factor=True))
    permissions.check_defined(["editor"])
    assert permissions.of(["user", "editor"]) == ["read", "publish"]
    assert permissions.granted(("user", "editor")) == {"read", "publish"}
    assert permissions.require_second_factor(["user", "editor"])
    assert not permissions.require_second_factor(["user"])
    await roles.delete(CALL, "editor")
    assert permissions.granted(("user", "editor")) == {"read"}
    with pytest.raises(NotFound):
        await roles.delete(CALL, "editor")


async def test_shortest_lifetimes_count(roles: RoleDefinitions, permissions: Permissions) -> None:
    await roles.put(CALL, RoleDefinition("a", lifetimes=Lifetimes(idle=3 * MINUTE)))
    await roles.put(CALL, RoleDefinition("b", lifetimes=Lifetimes(MINUTE, 5 * MINUTE)))
    assert permissions.lifetimes(["user", "a"]) == Lifetimes(idle=3 * MINUTE)
    assert permissions.lifetimes(["a", "b"]) == Lifetimes(MINUTE, 5 * MINUTE)


@pytest.mark.parametrize("name", ["user", "admin"])
async def test_role_of_settings_is_read_only(roles: RoleDefinitions, name: str) -> None:
    with pytest.raises(FailedPrecondition):
        await roles.put(CALL, RoleDefinition(name))
    with pytest.raises(FailedPrecondition):
        await roles.delete(CALL, name)


async def test_settings_win_over_a_stored_role(roles: RoleDefinitions, database: Database) -> None:
    await roles.put(CALL, RoleDefinition("editor", ("publish",)))
    later = Permissions({"editor": ("review",)})
    definitions = Definitions(database, timedelta(seconds=1))
    later.follow(definitions)
    await definitions.refresh()
    assert later.of(["editor"]) == ["review"]


async def test_number_of_roles_is_bounded(roles: RoleDefinitions, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "MAX_ROLES", 1)
    assert await roles.put(CALL, RoleDefinition("a"))
    with pytest.raises(FailedPrecondition):
        await roles.put(CALL, RoleDefinition("b"))
    assert not await roles.put(CALL, RoleDefinition("a", ("publish",)))
