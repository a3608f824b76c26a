"""Owns the session cache: sessions in force, and the times from which using them needs a write."""

from dataclasses import replace
from datetime import datetime

from authsvc.core.lib.memo import Memo
from authsvc.core.revocations.cache import RevocableCache
from authsvc.models.ids import SessionId, UserId
from authsvc.models.sessions import Session


class CachedSession:
    """A cached session, and the times from which using it needs a write.

    From `touch_time` on, its last use is recorded again; from `slide_time` on, its idle lifetime is
    extended. `memo` is for what is derived from `session`.
    """

    __slots__ = ("memo", "session", "slide_time", "token_hash", "touch_time")

    def __init__(
        self, *, session: Session, token_hash: bytes, touch_time: datetime, slide_time: datetime
    ) -> None:
        self.session = session
        self.memo = Memo()
        self.token_hash = token_hash
        self.touch_time = touch_time
        self.slide_time = slide_time

    def use(self, last_use_time: datetime, touch_time: datetime) -> None:
        """Set when the session was last used, and when that is to be recorded again."""
        self.session = replace(self.session, last_use_time=last_use_time)
        self.memo = Memo()
        self.touch_time = touch_time

    @property
    def id(self) -> SessionId:
        """The session's id."""
        return self.session.session_id

    @property
    def user_id(self) -> UserId:
        """The session's user."""
        return self.session.user_id


class SessionCache(RevocableCache[CachedSession]):
    """The most recently used sessions in force, up to `max_size`."""

    def __init__(self, max_size: int) -> None:
        super().__init__("session", max_size)
