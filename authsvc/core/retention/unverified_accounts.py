"""Owns the removal of accounts whose e-mail address was never verified.

An account is removed only if it is unused: created by Register, so neither imported nor created by
an operator; not changed within the period; with no login so recent that its session could have been
used within the period; and without a session, an identity, a factor or an API key. An account of
unknown origin is kept.
"""

from authsvc.config import RetentionSettings, SessionSettings
from authsvc.core.accounts.deletion import AccountDeletion
from authsvc.errors import NotFound
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.models.retention import Plan
from authsvc.store import unverified_accounts as store
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.unverified_accounts import Period

_SYSTEM = Call(request_id="", caller="system")
_PAGES = 20
KIND = "unverified_accounts"


class UnverifiedAccounts:
    """Erases accounts that were never verified, in the same way as their users could."""

    def __init__(
        self,
        *,
        database: Database,
        deletion: AccountDeletion,
        settings: RetentionSettings,
        sessions: SessionSettings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._deletion = deletion
        self._period = settings.unverified_accounts
        self._session_lifetime = sessions.absolute_lifetime
        self._page_size = settings.batch_size
        self._clock = clock
        self._after: UserId | None = None

    async def remove(self) -> int:
        """Check some accounts, continuing after the previous call; return how many were removed.

        Any number of replicas may run at once.
        """
        if self._period is None:
            return 0
        before, removed = self._clock.now() - self._period, 0
        # The use of a session is not recorded in the user's row, and its own row may be gone.
        period = Period(last_change=before, last_login=before - self._session_lifetime)
        for _ in range(_PAGES):
            async with self._database.connection() as connection:
                page = await store.list_after(connection, self._after, self._page_size, period)
            for candidate in page:
                # Set first: an account that can't be removed must not block those after it.
                self._after = candidate.user_id
                if candidate.is_stale:
                    removed += await self._remove(candidate.user_id, period)
            if len(page) < self._page_size:
                self._after = None
                break
        return removed

    async def plan(self) -> Plan:
        """Return how many accounts are due now; this reads the table of users."""
        if self._period is None:
            return Plan(KIND, None)
        before = self._clock.now() - self._period
        period = Period(last_change=before, last_login=before - self._session_lifetime)
        async with self._database.connection() as connection:
            return Plan.of(KIND, self._period, await store.find_due(connection, period))

    async def _remove(self, user_id: UserId, period: Period) -> bool:
        async def is_abandoned(connection: Connection) -> bool:
            return await store.is_abandoned(connection, user_id, period)

        async with self._database.connection() as connection:
            if not await is_abandoned(connection):
                return False
        try:
            # Checked again while the user's row is locked: the user may log in at this moment.
            await self._deletion.erase(_SYSTEM, user_id, only_if=is_abandoned)
        except NotFound:
            return False
        return True
