"""Owns the removal of accounts that were registered with an address that nobody ever proved.

Only of those that nobody misses: made by Register, so neither imported nor made by an operator; not
changed for the whole period and not logged in to since a session could have been used within it;
without a session, an identity, a factor or an API key. An account is kept if it is not known how it
was made.
"""

from authsvc.config import RetentionSettings, SessionSettings
from authsvc.core.accounts.deletion import AccountDeletion
from authsvc.errors import NotFound
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.store import unverified_accounts as store
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.unverified_accounts import Period

_SYSTEM = Call(request_id="", caller="system")
_PAGES = 20


class UnverifiedAccounts:
    """Erases, as their users could, accounts that were never verified."""

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
        """Look at some accounts, go on there the next time; return how many were removed.

        Any number of replicas may do so at once.
        """
        if self._period is None:
            return 0
        before, removed = self._clock.now() - self._period, 0
        # The use of a session is not noted with the user, and the session's row may be gone.
        period = Period(last_change=before, last_login=before - self._session_lifetime)
        for _ in range(_PAGES):
            async with self._database.connection() as connection:
                page = await store.list_after(connection, self._after, self._page_size, period)
            for candidate in page:
                # Noted before: one that can't be removed must not keep the others behind it.
                self._after = candidate.user_id
                if candidate.is_stale:
                    removed += await self._remove(candidate.user_id, period)
            if len(page) < self._page_size:
                self._after = None
                break
        return removed

    async def _remove(self, user_id: UserId, period: Period) -> bool:
        async def is_abandoned(connection: Connection) -> bool:
            return await store.is_abandoned(connection, user_id, period)

        async with self._database.connection() as connection:
            if not await is_abandoned(connection):
                return False
        try:
            # Asked again while the user's row is held: its user may come at this moment.
            await self._deletion.erase(_SYSTEM, user_id, only_if=is_abandoned)
        except NotFound:
            return False
        return True
