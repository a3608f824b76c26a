"""Owns the definition of roles at run time, beside those of the settings."""

from collections.abc import Sequence
from datetime import timedelta

from authsvc.config import TokenSettings
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.lib.definitions import Definitions
from authsvc.core.roles.permissions import Permissions
from authsvc.errors import defined_in_settings, limit_reached, role_not_found
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.roles import RoleDefinition
from authsvc.store import definitions
from authsvc.store import roles as store
from authsvc.store.definitions import Topic
from authsvc.store.postgres.database import Connection, Database

MAX_ROLES = 1_000


class RoleDefinitions:
    """Creates, changes and deletes roles.

    A permission that a role loses is a revocation: the change appends the role's users to the
    revocation log. The service itself looks at what the role grants now.
    """

    def __init__(
        self,
        *,
        database: Database,
        permissions: Permissions,
        definitions: Definitions,
        tokens: TokenSettings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._permissions = permissions
        self._definitions = definitions
        self._token_lifetime: timedelta = tokens.access_lifetime
        self._clock = clock

    def list(self) -> list[RoleDefinition]:
        """Return all roles, by name."""
        return self._permissions.definitions()

    async def put(self, call: Call, role: RoleDefinition) -> bool:
        """Create or replace a role, on every replica within a second; return whether it is new.

        Raises:
            FailedPrecondition: DEFINED_IN_SETTINGS, LIMIT_REACHED.
        """
        if self._permissions.is_in_settings(role.name):
            raise defined_in_settings(role.name)
        now = self._clock.now()
        async with self._database.transaction(Topic.ROLES) as connection:
            await definitions.change(connection, Topic.ROLES)
            stored = {each.name: each for each in await store.read(connection)}
            before = stored.get(role.name)
            if before is None and len(stored) >= MAX_ROLES:
                raise limit_reached(MAX_ROLES)
            await store.put(connection, role, now)
            if before is not None and not set(before.permissions) <= set(role.permissions):
                await self._narrow(connection, role.name)
            detail: dict[str, str | bool | Sequence[str]] = {
                "role": role.name,
                "permissions": role.permissions,
                "requires_second_factor": role.requires_second_factor,
            }
            for name, lifetime in role.lifetimes._asdict().items():
                if lifetime is not None:
                    detail[f"{name}_lifetime_seconds"] = str(lifetime.total_seconds())
            await record_event(connection, now, AuditEvent(AuditType.ROLE_PUT, call, detail=detail))
        await self._definitions.note_change()
        return before is None

    async def delete(self, call: Call, name: str) -> int:
        """Delete a role that is defined at run time; return how many users have its name.

        What the settings overrule can be deleted too, which changes nothing else.

        Raises:
            NotFound: ROLE_NOT_FOUND.
            FailedPrecondition: DEFINED_IN_SETTINGS.
        """
        async with self._database.transaction(Topic.ROLES) as connection:
            await definitions.change(connection, Topic.ROLES)
            in_settings = self._permissions.is_in_settings(name)
            if not await store.delete(connection, name):
                raise defined_in_settings(name) if in_settings else role_not_found(name)
            if not in_settings:
                await self._narrow(connection, name)
            count = await store.count_users(connection, name)
            event = AuditEvent(
                AuditType.ROLE_DELETE, call, detail={"role": name, "user_count": count}
            )
            await record_event(connection, self._clock.now(), event)
        await self._definitions.note_change()
        return count

    async def _narrow(self, connection: Connection, name: str) -> None:
        now = self._clock.now()
        await store.announce_narrowed(connection, name, now - self._token_lifetime, now)
