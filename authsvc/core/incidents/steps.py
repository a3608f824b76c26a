"""Owns the steps that an operator takes in an incident; each is an audit event with its reason."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from authsvc.core.accounts.administration import UserAdministration
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.audit.schema import Detail
from authsvc.core.lib.ids import uuid7
from authsvc.core.sessions.bulk_ending import BulkSessionEnding
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.errors import NotFound, limit_reached
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.models.incidents import IncidentEvent, LoginFreeze, LoginMethod, PasswordSelection
from authsvc.models.sessions import SessionSelection
from authsvc.models.signing import SigningKeyInfo
from authsvc.store import incidents as store
from authsvc.store import login_freezes
from authsvc.store.postgres.database import Connection, Database

# All of them are compared with each login.
_MAX_FREEZES = 200
_BATCH = 1_000
# Of the events of incidents, by their common beginnings.
_TYPES = [type_.value for type_ in AuditType if type_.value.startswith(("incident.", "detection."))]


class IncidentSteps:
    """Takes the steps. `call` names the operator, `reason` is a line of text."""

    def __init__(
        self,
        *,
        database: Database,
        sessions: BulkSessionEnding,
        administration: UserAdministration,
        signing_keys: SigningKeys,
        clock: Clock,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._administration = administration
        self._signing_keys = signing_keys
        self._clock = clock

    async def freeze(
        self,
        call: Call,
        methods: Sequence[LoginMethod],
        network: str | None,
        duration: timedelta,
        reason: str,
    ) -> LoginFreeze:
        """Refuse logins by `methods` (none: all) from `network` (None: any) for `duration`.

        Every replica refuses them within a second. To freeze the same again changes its end.

        Raises:
            FailedPrecondition: LIMIT_REACHED.
        """
        async with self._database.transaction() as connection:
            freeze = await login_freezes.upsert(
                connection,
                uuid7(self._clock.now()),
                methods,
                network,
                duration,
                call.caller,
                reason,
            )
            # Afterwards, as one that was there already can be changed whatever their number.
            if len(await login_freezes.list_all(connection)) > _MAX_FREEZES:
                raise limit_reached(_MAX_FREEZES)
            detail = {
                **_described(freeze),
                "expire_time": freeze.expire_time.isoformat(),
                "reason": reason,
            }
            await self._record(connection, AuditType.INCIDENT_FREEZE, call, detail)
        return freeze

    async def unfreeze(
        self, call: Call, freeze_ids: Sequence[UUID], reason: str
    ) -> Sequence[LoginFreeze]:
        """Lift freezes; return those that this call lifted."""
        async with self._database.transaction() as connection:
            lifted = await login_freezes.delete(connection, freeze_ids)
            for freeze in lifted:
                detail = {**_described(freeze), "reason": reason}
                await self._record(connection, AuditType.INCIDENT_UNFREEZE, call, detail)
        return lifted

    async def freezes(self) -> Sequence[LoginFreeze]:
        """Return the freezes that are in force."""
        async with self._database.connection() as connection:
            return await login_freezes.list_all(connection)

    async def count_logins(
        self, methods: Sequence[LoginMethod], network: str | None, within: timedelta
    ) -> int:
        """Return how many logins such a freeze would have refused `within` that time."""
        since = self._clock.now() - within
        async with self._database.connection() as connection:
            return await store.count_logins(
                connection, methods or tuple(LoginMethod), network, since
            )

    async def end_sessions(self, call: Call, selection: SessionSelection, reason: str) -> int:
        """End the selected sessions; return how many were active."""
        count = (await self._sessions.end(call, selection)).count
        await self.record(AuditType.INCIDENT_END_SESSIONS, call, {"count": count, "reason": reason})
        return count

    async def count_passwords(self, selection: PasswordSelection) -> int:
        """Return how many users `require_password_change` would concern."""
        count = 0
        async for _ in self._users_with_password(selection):
            count += 1
        return count

    async def require_password_change(
        self, call: Call, selection: PasswordSelection, reason: str
    ) -> int:
        """Let the selected users' passwords open no more sessions until changed; return how many.

        Their sessions end. If it is interrupted, another call does the rest.
        """
        count = 0
        async for user_id in self._users_with_password(selection):
            try:
                await self._administration.require_password_change(
                    call, user_id, keep_sessions=False
                )
            except NotFound:
                # Deleted in the meantime.
                continue
            count += 1
        detail: Detail = {"count": count, "reason": reason}
        await self.record(AuditType.INCIDENT_REQUIRE_PASSWORD_CHANGE, call, detail)
        return count

    async def _users_with_password(self, selection: PasswordSelection) -> AsyncIterator[UserId]:
        after: UserId | None = None
        while True:
            async with self._database.connection() as connection:
                found = await store.list_users_with_password(connection, selection, after, _BATCH)
            for user_id in found:
                yield user_id
            if len(found) < _BATCH:
                return
            after = found[-1]

    async def rotate_key(self, call: Call, reason: str, *, now: bool) -> SigningKeyInfo:
        """Sign with another key as soon as every verifier has it, or `now`; return that key."""
        key = await self._signing_keys.rotate(call, now=now)
        detail = {"key_id": key.key_id, "reason": reason}
        await self.record(AuditType.INCIDENT_ROTATE_KEY, call, detail)
        return key

    async def revoke_key(self, call: Call, key_id: str, reason: str) -> bool:
        """Revoke a key; return False if there is no such key or it was revoked before."""
        revoked = (await self._signing_keys.revoke(call, key_id)).is_new
        if revoked:
            detail = {"key_id": key_id, "reason": reason}
            await self.record(AuditType.INCIDENT_REVOKE_KEY, call, detail)
        return revoked

    async def recent(self, since: datetime, limit: int) -> Sequence[IncidentEvent]:
        """Return the newest `limit` detections and steps since then, in the order of their ids."""
        async with self._database.connection() as connection:
            return await store.list_events(connection, _TYPES, since, limit)

    async def record(self, type_: AuditType, call: Call, detail: Detail) -> None:
        """Record a step that other use cases have taken."""
        async with self._database.transaction() as connection:
            await self._record(connection, type_, call, detail)

    async def _record(
        self, connection: Connection, type_: AuditType, call: Call, detail: Detail
    ) -> None:
        event = AuditEvent(type_, call, detail=detail)
        await record_event(connection, self._clock.now(), event)


def _described(freeze: LoginFreeze) -> dict[str, str | list[str]]:
    return {
        "freeze_id": str(freeze.freeze_id),
        "methods": [method.value for method in freeze.methods],
        "network": freeze.network or "",
    }
