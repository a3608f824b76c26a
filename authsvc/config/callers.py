"""Owns the settings of calling services: their identities, roles and tokens."""

from pydantic import Field

from authsvc.config.types import Audience, PermissionName, Section
from authsvc.models.calls import Role


class CallerSettings(Section):
    """A calling service: its identity (`spiffe://…` or `dns:name`), its roles, and its tokens."""

    identity: str = Field(pattern=r"^(spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+|dns:[a-z0-9.-]+)$")
    roles: frozenset[Role] = Field(min_length=1)
    audiences: frozenset[Audience] = Field(
        frozenset(), description="Whom it may ask tokens for; none: nobody."
    )
    scopes: frozenset[PermissionName] = Field(
        frozenset(), max_length=64, description="What tokens of its own may do."
    )
