"""Owns users' access to the data held on them: security events, and a full export."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.lib import base64url, paging
from authsvc.errors import FieldInvalid, Overloaded, Resource, user_not_found
from authsvc.models.audit import SecurityEvent
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.models.tokens import Claims
from authsvc.store import own_data as store
from authsvc.store import users
from authsvc.store.own_data import EventKey, Row
from authsvc.store.postgres.database import Database

_BATCH = 500
# A slow reader occupies one of these, but no connection to the database.
_MAX_EXPORTS = 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class EventPage:
    """A page of a user's events; `next_page_token` is "" on the last page."""

    events: Sequence[SecurityEvent]
    next_page_token: str


class AccountData:
    """Gives users access to the data held on them."""

    def __init__(self, database: Database, recent_login: RecentLogin, clock: Clock) -> None:
        self._database = database
        self._recent_login = recent_login
        self._clock = clock
        self._exports = 0

    async def list_events(self, user_id: UserId, page_size: int, page_token: str) -> EventPage:
        """Return a page of an account's security events, newest first; `page_size` 0 means 50.

        Raises:
            FieldInvalid: The page size is not 0 to 1000, or the page token is not this user's.
        """
        size = paging.page_size(page_size)
        before = _parse_page_token(user_id, page_token) if page_token else store.LAST_EVENT
        async with self._database.connection() as connection:
            found = await store.list_events(connection, user_id, before, size + 1)
        return EventPage(*paging.cut(found, size, lambda last: _page_token(user_id, last)))

    async def export(self, call: Call, claims: Claims) -> AsyncGenerator[list[bytes], None]:
        """Yield everything held on the token's user except secrets, as one JSON object per line.

        The lines come in batches, each read separately: however slow the reader and however long
        the history, no transaction stays open and no connection is occupied. So changes made
        meanwhile may or may not be included.

        Raises:
            FailedPrecondition: REAUTHENTICATION_REQUIRED.
            NotFound: USER_NOT_FOUND, also if the account was deleted meanwhile.
            Overloaded: Too many exports are in progress.
        """
        self._recent_login.require(claims)
        with self._one_export():
            await self._begin(call, claims)
            async for kind, rows in self._rows(claims.subject):
                yield [_line(kind, row) for row in rows]
            await self._require_user(claims.subject)

    @contextmanager
    def _one_export(self) -> Iterator[None]:
        if self._exports >= _MAX_EXPORTS:
            raise Overloaded("Too many exports are in progress.", what=Resource.TRANSFERS)
        self._exports += 1
        try:
            yield
        finally:
            self._exports -= 1

    async def _begin(self, call: Call, claims: Claims) -> None:
        await self._require_user(claims.subject)
        event = AuditEvent(AuditType.DATA_EXPORT, call, claims.subject, claims.session_id)
        async with self._database.connection() as connection:
            await record_event(connection, self._clock.now(), event)

    async def _require_user(self, user_id: UserId) -> None:
        async with self._database.connection() as connection:
            user = await users.get(connection, user_id)
        if user is None or not user.active:
            raise user_not_found()

    async def _rows(self, user_id: UserId) -> AsyncIterator[tuple[str, Sequence[Row]]]:
        for kind in store.SMALL:
            async with self._database.connection() as connection:
                rows = await store.read_small(connection, kind, user_id)
            yield kind, rows
        for kind in store.LARGE:
            last: UUID | None = None
            while rows := await self._read_large(kind, user_id, last):
                yield kind, rows
                last = next(iter(rows[-1].values()))
        at = store.FIRST_EVENT
        while rows := await self._read_events(user_id, at):
            yield "audit_event", rows
            at = EventKey(rows[-1]["occur_time"], rows[-1]["event_id"])

    async def _read_large(self, kind: str, user_id: UserId, after: UUID | None) -> Sequence[Row]:
        async with self._database.connection() as connection:
            return await store.read_large(connection, kind, user_id, after, _BATCH)

    async def _read_events(self, user_id: UserId, after: EventKey) -> Sequence[Row]:
        async with self._database.connection() as connection:
            return await store.read_events(connection, user_id, after, _BATCH)


def _line(kind: str, row: Row) -> bytes:
    values = {"kind": kind, **row}
    if "detail" in values:
        values["detail"] = json.loads(values["detail"])
    line = json.dumps(values, default=_text, ensure_ascii=False)
    return line.encode() + b"\n"


def _text(value: object) -> str:
    """Return a time in the format of RFC 3339, in UTC, and an id as text."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _page_token(user_id: UserId, last: SecurityEvent) -> str:
    microseconds = (last.occur_time - _EPOCH) // _MICROSECOND
    content = user_id.bytes + last.event_id.bytes + microseconds.to_bytes(8, signed=True)
    return base64url.encode(content)


def _parse_page_token(user_id: UserId, page_token: str) -> EventKey:
    """Return the last event of the previous page."""
    try:
        content = base64url.decode(page_token)
        if len(content) == 40 and content[:16] == user_id.bytes:
            microseconds = int.from_bytes(content[32:], signed=True)
            return EventKey(_EPOCH + microseconds * _MICROSECOND, UUID(bytes=content[16:32]))
    except (ValueError, OverflowError):
        pass
    raise FieldInvalid("page_token", "Not a page token of this user's events.")
