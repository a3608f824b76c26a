"""Owns the permissions that roles grant, and the narrowing of scopes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Self

from authsvc.config import Settings
from authsvc.errors import FieldInvalid, quoted_names

DEFAULT_ROLES: Final = ("user",)


class Permissions:
    """The permissions that each role grants, by the role's name."""

    def __init__(self, by_role: Mapping[str, Sequence[str]]) -> None:
        self._by_role = by_role

    @classmethod
    def of_settings(cls, settings: Settings) -> Self:
        """Return the permissions in the settings; a role that needs a factor may grant none."""
        without: dict[str, Sequence[str]] = dict.fromkeys(
            settings.second_factors.required_for_roles, ()
        )
        return cls(without | settings.permissions)

    def of(self, roles: Iterable[str]) -> list[str]:
        """Return the permissions of users with these roles, without duplicates."""
        granted = (self._by_role.get(role, ()) for role in roles)
        return list(dict.fromkeys(name for names in granted for name in names))

    def check_defined(self, roles: Iterable[str]) -> None:
        """Check that each of `roles` is a role of the settings, or the one that all users get.

        Raises:
            FieldInvalid: Some are not; their names are shown, and those that are.
        """
        known = {*DEFAULT_ROLES, *self._by_role}
        if undefined := list(dict.fromkeys(role for role in roles if role not in known)):
            raise FieldInvalid(
                "roles",
                f"has roles that are not defined: {quoted_names(undefined)}; "
                f"those defined are: {quoted_names(sorted(known))}",
            )


def narrow_scopes(
    requested: Sequence[str], held: Sequence[str], field: str = "scopes"
) -> tuple[str, ...]:
    """Return the scopes to grant on a token with the scopes `held`: `requested`, or all if empty.

    Raises:
        FieldInvalid: A requested scope is not among `held`.
    """
    for index, scope in enumerate(requested):
        if scope not in held:
            raise FieldInvalid(f"{field}[{index}]", "is not one of the token's scopes")
    return tuple(dict.fromkeys(requested or held))
