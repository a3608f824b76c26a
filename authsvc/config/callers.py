"""Owns the settings of calling services: their identities, roles and tokens."""

from typing import Annotated

from pydantic import Field

from authsvc.config.types import Audience, Distinct, Form, PermissionName, Section
from authsvc.models.calls import Role


class CallerSettings(Section):
    """A calling service: its identity (`spiffe://…` or `dns:name`), its roles, and its tokens."""

    identity: Annotated[
        str,
        Form(
            r"spiffe://[a-z0-9._-]+(?:/[A-Za-z0-9._-]+)+|dns:[a-z0-9.-]+",
            '"spiffe://trust-domain/path" or "dns:name"',
        ),
    ] = Field(
        description="`spiffe://trust-domain/path` or `dns:name`, as in the caller's certificate."
    )
    roles: Distinct[Role] = Field(min_length=1, description="What it may call; one role at least.")
    audiences: Distinct[Audience] = Field(
        frozenset(), description="For which audiences it may request tokens."
    )
    scopes: Distinct[PermissionName] = Field(
        frozenset(), max_length=64, description="Which scopes its own tokens may have; 64 at most."
    )
