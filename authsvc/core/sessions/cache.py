"""Owns what the cache of sessions holds: a session in force, and when its use matters again."""

from datetime import datetime
from typing import TypeAlias

from authsvc.core.revocations.cache import RevocableCache
from authsvc.models.ids import SessionId, UserId
from authsvc.models.sessions import Session


class CachedSession:
    """A session in the cache, and when its use means more than reading it.

    At `touch_time` its use is worth noting again, at `slide_time` its life is worth extending.
    """

    __slots__ = ("session", "slide_time", "token_hash", "touch_time")

    def __init__(
        self, session: Session, token_hash: bytes, touch_time: datetime, slide_time: datetime
    ) -> None:
        self.session = session
        self.token_hash = token_hash
        self.touch_time = touch_time
        self.slide_time = slide_time

    @property
    def id(self) -> SessionId:
        """The session's id."""
        return self.session.session_id

    @property
    def user_id(self) -> UserId:
        """Whose session it is."""
        return self.session.user_id


SessionCache: TypeAlias = RevocableCache[CachedSession]
