"""What roles allow."""

import pytest

from authsvc.core.roles.permissions import Permissions, narrow_scopes
from authsvc.errors import FieldInvalid


def test_roles_unite_their_permissions_in_order_and_once() -> None:
    permissions = Permissions({"user": ("read", "write"), "editor": ("write", "publish")})
    assert permissions.of(["editor", "user"]) == ["write", "publish", "read"]
    assert permissions.of(["user", "user"]) == ["read", "write"]
    assert permissions.of([]) == permissions.of(["unknown"]) == []


def test_narrowed_scopes_are_those_wanted_once_or_all() -> None:
    held = ("read", "write")
    assert narrow_scopes(["write", "write"], held) == ("write",)
    assert narrow_scopes([], held) == held


def test_scope_that_is_not_held_is_refused_with_its_place() -> None:
    with pytest.raises(FieldInvalid) as caught:
        narrow_scopes(["read", "admin"], ("read",))
    assert [found.field for found in caught.value.violations] == ["scopes[1]"]
