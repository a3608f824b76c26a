"""Permissions of roles, and narrowing of scopes."""

import pytest

from authsvc.config import SecondFactorSettings, Settings
from authsvc.core.roles.permissions import Permissions, narrow_scopes
from authsvc.errors import FieldInvalid


def test_permissions_of_roles_are_merged_without_duplicates() -> None:
    permissions = Permissions({"user": ("read", "write"), "editor": ("write", "publish")})
    assert permissions.of(["editor", "user"]) == ["write", "publish", "read"]
    assert permissions.of(["user", "user"]) == ["read", "write"]
    assert permissions.of([]) == permissions.of(["unknown"]) == []


def test_roles_that_are_not_defined_are_named() -> None:
    Permissions({"editor": ()}).check_defined(["user", "editor"])
    with pytest.raises(FieldInvalid) as caught:
        Permissions({}).check_defined(["editor", "user", "editor", "a\n"])
    assert caught.value.message == (
        'roles: has roles that are not defined: "editor", "a\\n"; those defined are: "user"'
    )


def test_role_that_needs_a_factor_is_defined(settings: Settings) -> None:
    factors = SecondFactorSettings(required_for_roles=frozenset({"admin"}))
    permissions = Permissions.of_settings(settings.model_copy(update={"second_factors": factors}))
    permissions.check_defined(["admin", "user"])
    assert permissions.of(["admin", "user"]) == ["read", "write"]


def test_narrowing_returns_requested_scopes_or_all() -> None:
    held = ("read", "write")
    assert narrow_scopes(["write", "write"], held) == ("write",)
    assert narrow_scopes([], held) == held


def test_missing_scope_is_rejected_with_its_index() -> None:
    with pytest.raises(FieldInvalid) as caught:
        narrow_scopes(["read", "admin"], ("read",))
    assert [found.field for found in caught.value.violations] == ["scopes[1]"]
