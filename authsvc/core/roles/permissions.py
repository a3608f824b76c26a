"""Owns what roles allow, and how less than that is granted."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from authsvc.errors import FieldInvalid

DEFAULT_ROLES: Final = ("user",)


class Permissions:
    """What users may do: the permissions of each role, by its name."""

    def __init__(self, by_role: Mapping[str, Sequence[str]]) -> None:
        self._by_role = by_role

    def of(self, roles: Iterable[str]) -> list[str]:
        """Return what users with these roles may do, without repetition."""
        granted = (self._by_role.get(role, ()) for role in roles)
        return list(dict.fromkeys(name for names in granted for name in names))


def narrow_scopes(
    wanted: Sequence[str], held: Sequence[str], field: str = "scopes"
) -> tuple[str, ...]:
    """Return the scopes of what is made by a token that has `held`: `wanted`, or all of `held`.

    Raises:
        FieldInvalid: One of `wanted` is not among `held`.
    """
    for index, scope in enumerate(wanted):
        if scope not in held:
            raise FieldInvalid(f"{field}[{index}]", "is not one of the token's scopes")
    return tuple(dict.fromkeys(wanted or held))
