"""Owns the removal of accounts that were registered with an address that nobody ever proved.

Only of those that nobody misses: made by Register, as the audit log still says, so neither imported
nor made by an operator; not logged in to and not changed for the whole period; without an identity,
a factor or an API key. What can't be told any more is kept.
"""

from datetime import datetime

from authsvc.config import RetentionSettings
from authsvc.core.accounts.deletion import AccountDeletion
from authsvc.core.audit.recording import AuditType
from authsvc.errors import NotFound
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.store import unverified_accounts as store
from authsvc.store.postgres.database import Connection, Database

_SYSTEM = Call(request_id="", caller="system")
# What nobody does to an account but who can get into it.
_USES = (
    AuditType.LOGIN,
    AuditType.MFA_REQUIRED,
    AuditType.SESSION_CREATE,
    AuditType.REFRESH,
)
_PAGES = 20


class UnverifiedAccounts:
    """Erases, as their users could, accounts that were never verified."""

    def __init__(
        self,
        database: Database,
        deletion: AccountDeletion,
        settings: RetentionSettings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._deletion = deletion
        self._period = settings.unverified_accounts
        self._page_size = settings.batch_size
        self._clock = clock
        self._after: UserId | None = None

    async def remove(self) -> int:
        """Look at some accounts, go on there the next time; return how many were removed.

        Any number of replicas may do so at once.
        """
        if self._period is None:
            return 0
        before, removed = self._clock.now() - self._period, 0
        for _ in range(_PAGES):
            async with self._database.connection() as connection:
                page = await store.list_after(connection, self._after, self._page_size, before)
            for candidate in page:
                # Noted before: one that can't be removed must not keep the others behind it.
                self._after = candidate.user_id
                if candidate.is_stale:
                    removed += await self._remove(candidate.user_id, before)
            if len(page) < self._page_size:
                self._after = None
                break
        return removed

    async def _remove(self, user_id: UserId, before: datetime) -> bool:
        async def is_abandoned(connection: Connection) -> bool:
            return await store.is_abandoned(
                connection, user_id, before, making=AuditType.REGISTER, uses=_USES
            )

        async with self._database.connection() as connection:
            if not await is_abandoned(connection):
                return False
        try:
            # Asked again while the user's row is held: its user may come at this moment.
            await self._deletion.erase(_SYSTEM, user_id, only_if=is_abandoned)
        except NotFound:
            return False
        return True
