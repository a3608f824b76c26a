"""Owns what the roles of users grant and demand, and the narrowing of scopes."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Final, Self

import structlog

from authsvc.config import Settings
from authsvc.core.lib.definitions import Definitions
from authsvc.errors import FieldInvalid, quoted_names
from authsvc.models.roles import Lifetimes, RoleDefinition
from authsvc.store import roles as store
from authsvc.store.definitions import Topic
from authsvc.store.postgres.database import Connection

log = structlog.get_logger(__name__)

DEFAULT_ROLES: Final = ("user",)

# Combinations of roles whose permissions are remembered.
_MAX_REMEMBERED = 10_000


class Permissions:
    """The roles in the settings, by name, and beside them those that are defined at run time.

    A role of the settings wins over another of the same name. Without `follow`, there are only
    those of the settings.
    """

    def __init__(
        self, by_role: Mapping[str, Sequence[str]], requiring_second_factor: Iterable[str] = ()
    ) -> None:
        requiring = frozenset(requiring_second_factor)
        self._in_settings = {
            name: RoleDefinition(name, tuple(by_role.get(name, ())), name in requiring)
            for name in (*by_role, *(requiring - by_role.keys()))
        }
        self._definitions: Definitions | None = None
        self._replace_stored(())

    @classmethod
    def of_settings(cls, settings: Settings) -> Self:
        """Return the permissions in the settings; a role that needs a factor may grant none."""
        return cls(settings.permissions, settings.second_factors.required_for_roles)

    def follow(self, definitions: Definitions) -> None:
        """Keep up with the roles that are defined at run time."""
        self._definitions = definitions
        definitions.follow(Topic.ROLES, self._load)

    def is_fresh(self) -> bool:
        """Return whether no change of a role older than a second can have been missed."""
        return self._definitions is None or self._definitions.is_fresh()

    async def refresh(self) -> None:
        """Read whatever was changed before this call; raises StoreUnavailable."""
        if self._definitions is not None:
            await self._definitions.refresh()

    def definitions(self) -> list[RoleDefinition]:
        """Return all roles, by name."""
        return sorted(self._roles.values(), key=lambda role: role.name)

    def is_in_settings(self, role: str) -> bool:
        """Return whether the settings define the role."""
        return role in self._in_settings

    def of(self, roles: Iterable[str]) -> list[str]:
        """Return the permissions of users with these roles, without duplicates."""
        return list(
            dict.fromkeys(name for role in self._defined(roles) for name in role.permissions)
        )

    def granted(self, roles: tuple[str, ...]) -> frozenset[str]:
        """Return the permissions of users with these roles as a set, which is remembered."""
        granted = self._granted.get(roles)
        if granted is None:
            if len(self._granted) >= _MAX_REMEMBERED:
                self._granted.clear()
            granted = self._granted[roles] = frozenset(self.of(roles))
        return granted

    def require_second_factor(self, roles: Iterable[str]) -> bool:
        """Return whether one of the roles requires a second factor."""
        return any(role.requires_second_factor for role in self._defined(roles))

    def lifetimes(self, roles: Iterable[str]) -> Lifetimes:
        """Return the shortest lifetimes of these roles."""
        every = [role.lifetimes for role in self._defined(roles)]
        return Lifetimes(
            idle=_shortest(each.idle for each in every),
            absolute=_shortest(each.absolute for each in every),
            access_token=_shortest(each.access_token for each in every),
        )

    def check_defined(self, roles: Iterable[str]) -> None:
        """Check that each of `roles` is defined, or the one that all users get.

        Raises:
            FieldInvalid: Some are not; their names are shown, and those that are.
        """
        known = {*DEFAULT_ROLES, *self._roles}
        if undefined := list(dict.fromkeys(role for role in roles if role not in known)):
            raise FieldInvalid(
                "roles",
                f"has roles that are not defined: {quoted_names(undefined)}; "
                f"those defined are: {quoted_names(sorted(known))}",
            )

    async def _load(self, connection: Connection) -> None:
        overruled = self._replace_stored(await store.read(connection))
        if overruled:
            log.warning("roles_overruled_by_settings", roles=overruled)

    def _replace_stored(self, roles: Iterable[RoleDefinition]) -> Sequence[str]:
        """Use these roles beside those of the settings; return the names that are in both."""
        stored = {role.name: role for role in roles}
        self._roles = stored | self._in_settings
        self._granted: dict[tuple[str, ...], frozenset[str]] = {}
        return sorted(stored.keys() & self._in_settings.keys())

    def _defined(self, roles: Iterable[str]) -> list[RoleDefinition]:
        return [self._roles[role] for role in roles if role in self._roles]


def _shortest(lifetimes: Iterable[timedelta | None]) -> timedelta | None:
    return min((each for each in lifetimes if each is not None), default=None)


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
