"""Owns the lookup of accounts for operators: one by its id or address, or lists by filters."""

import hashlib
import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from authsvc.core.accounts.accounts import account_key
from authsvc.core.attempts.brute_force import BruteForce
from authsvc.core.lib import base64url, paging
from authsvc.core.lib.emails import fold_prefix
from authsvc.core.lib.sealing import Keyring
from authsvc.core.lib.slices import Slices
from authsvc.errors import FieldInvalid, email_not_found, user_not_found
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.models.users import Lock, UserDetails, UserFilter
from authsvc.store import user_listing as store
from authsvc.store.postgres.database import Database
from authsvc.store.user_listing import ListedUser, ListPosition

# A list of several filters reads so many rows at a time, until its page is full or its time is up.
_SCANNED_ROWS: Final = 2_000
_SCAN_SECONDS: Final = 0.5
_MAC_BYTES: Final = 16
_ADDRESS, _TIME = b"a", b"t"
_MICROSECOND: Final = timedelta(microseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class UserPage:
    """A page of users; `next_page_token` is "" on the last page.

    A list of several filters may have pages that are short, or empty, before the last.
    """

    users: Sequence[UserDetails]
    next_page_token: str


class AccountListing:
    """Looks up accounts, active or not, with their locks."""

    def __init__(
        self,
        *,
        database: Database,
        brute_force: BruteForce,
        keyring: Keyring,
        slices: Slices,
        clock: Clock,
    ) -> None:
        self._database = database
        self._brute_force = brute_force
        # Newest first: tokens made with an older key still continue their lists.
        self._keys = keyring.derive("user-list-pages")
        self._slices = slices
        self._clock = clock

    async def find(self, account: UserId | str) -> UserDetails:
        """Return an account, given by id or e-mail address.

        Raises:
            NotFound: USER_NOT_FOUND.
            FieldInvalid: EMAIL_INVALID.
        """
        key = account_key(account)
        async with self._database.connection() as connection:
            found = await store.find(connection, key)
        if found is None:
            raise email_not_found() if isinstance(key, str) else user_not_found()
        return (await self._with_locks([found]))[0]

    async def list(self, wanted: UserFilter, page_size: int, page_token: str) -> UserPage:
        """Return a page of the accounts that match all parts of a filter; `page_size` 0 means 50.

        They are in an order in which they can be found quickly: that of their addresses, or of the
        times of the filter, and otherwise of their ids, which is mostly that of their creation.

        Raises:
            FieldInvalid: The page size is not 0 to 1000, or the page token is of another list.
        """
        size = paging.page_size(page_size)
        wanted = replace(wanted, email_prefix=fold_prefix(wanted.email_prefix))
        after = self._parse_token(wanted, page_token) if page_token else None
        places, end = await self._scan(wanted, after, size + 1)
        if len(places) > size:
            places = places[:size]
            end = places[-1]
        async with self._database.connection() as connection:
            found = await store.find_many(connection, [place.user_id for place in places])
        return UserPage(await self._with_locks(found), self._token(wanted, end) if end else "")

    async def _scan(
        self, wanted: UserFilter, after: ListPosition | None, limit: int
    ) -> tuple[Sequence[ListPosition], ListPosition | None]:
        """Return up to `limit` places of users that match, and where to go on."""
        places: list[ListPosition] = []
        rows = limit if store.has_one_part(wanted) else max(limit, _SCANNED_ROWS)
        give_up = time.monotonic() + _SCAN_SECONDS
        while True:
            async with self._database.connection() as connection:
                scan = await store.scan(
                    connection, wanted, after, limit=limit - len(places), max_scanned=rows
                )
            places += scan.found
            after = scan.end
            if after is None or len(places) >= limit or time.monotonic() > give_up:
                return places, after

    async def _with_locks(self, found: Sequence[ListedUser]) -> Sequence[UserDetails]:
        now = self._clock.now()
        waits = await self._brute_force.locks(
            [(each.email_canonical, each.devices) for each in found], self._slices
        )
        return [
            self._with_lock(each.user, now, *wait) for each, wait in zip(found, waits, strict=True)
        ]

    def _with_lock(
        self, user: UserDetails, now: datetime, wait: float | None, device_wait: float | None
    ) -> UserDetails:
        lock = _lock(
            now, wait, endless=user.failed_logins >= self._max_failures(known_device=False)
        )
        if user.failed_device_logins >= self._max_failures(known_device=True):
            # None counts as known any longer (`store.failed_logins`).
            return replace(user, lock=lock, device_lock=lock)
        return replace(user, lock=lock, device_lock=_lock(now, device_wait))

    def _max_failures(self, *, known_device: bool) -> int:
        return self._brute_force.max_failures(known_device=known_device)

    def _token(self, wanted: UserFilter, place: ListPosition) -> str:
        match place.key:
            case str():
                key = _ADDRESS + place.key.encode()
            case datetime():
                key = _TIME + b"%d" % ((place.key - _EPOCH) // _MICROSECOND)
            case None:
                key = b""
        content = place.user_id.bytes + key
        return base64url.encode(_mac(self._keys[0], wanted, content) + content)

    def _parse_token(self, wanted: UserFilter, token: str) -> ListPosition:
        try:
            decoded = base64url.decode(token)
        except ValueError:
            decoded = b""
        mac, content = decoded[:_MAC_BYTES], decoded[_MAC_BYTES:]
        if not any(hmac.compare_digest(mac, _mac(key, wanted, content)) for key in self._keys):
            raise FieldInvalid("page_token", "Not a page token of a list with these filters.")
        user_id, kind, key = content[:16], content[16:17], content[17:]
        value: str | datetime | None = None
        if kind == _ADDRESS:
            value = key.decode()
        elif kind == _TIME:
            value = _EPOCH + int(key) * _MICROSECOND
        return ListPosition(value, UserId(UUID(bytes=user_id)))


def _mac(key: bytes, wanted: UserFilter, content: bytes) -> bytes:
    """Return a keyed hash that binds a page token to the filters of its list."""
    message = repr(wanted).encode() + b"\0" + content
    return hmac.digest(key, message, hashlib.sha256)[:_MAC_BYTES]


def _lock(now: datetime, wait: float | None, *, endless: bool = False) -> Lock | None:
    if endless:
        return Lock(None)
    return None if wait is None else Lock(now + timedelta(seconds=wait))
