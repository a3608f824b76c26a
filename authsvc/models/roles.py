"""Owns the domain values of users' roles."""

from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from authsvc.models.definitions import DefinedIn


class Lifetimes(NamedTuple):
    """How long sessions and access tokens last at most; None means as the settings say."""

    idle: timedelta | None = None
    absolute: timedelta | None = None
    access_token: timedelta | None = None


def capped(lifetime: timedelta | None, most: timedelta) -> timedelta:
    """Return the shorter of a role's lifetime, if it has one, and that of the settings."""
    return most if lifetime is None else min(lifetime, most)


_AS_SETTINGS = Lifetimes()


@dataclass(frozen=True, slots=True)
class RoleDefinition:
    """What a role of users grants and demands."""

    name: str
    permissions: tuple[str, ...] = ()
    requires_second_factor: bool = False
    lifetimes: Lifetimes = _AS_SETTINGS
    defined_in: DefinedIn = DefinedIn.SETTINGS
