"""Owns the lookup of accounts for operators: one by its id or address, or all by page."""

from collections.abc import Sequence

from authsvc.core.accounts.accounts import account_key
from authsvc.errors import email_not_found, user_not_found
from authsvc.models.ids import UserId
from authsvc.models.users import User
from authsvc.store import users
from authsvc.store.postgres.database import Database


class AccountListing:
    """Looks up accounts, active or not."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, account: str) -> User:
        """Return an account, given by id or e-mail address.

        Raises:
            NotFound: USER_NOT_FOUND.
            FieldInvalid: EMAIL_INVALID.
        """
        key = account_key(account)
        async with self._database.connection() as connection:
            user = await users.find(connection, key)
        if user is None:
            raise email_not_found() if isinstance(key, str) else user_not_found()
        return user

    async def list(self, after: UserId | None, limit: int) -> Sequence[User]:
        """Return up to `limit` accounts in the order of their ids, those after `after`."""
        async with self._database.connection() as connection:
            return await users.list_after(connection, after, limit)
