"""Owns ids: UUIDv7, generated here because PostgreSQL cannot do so before version 18."""

import secrets
import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_TAIL_BITS = 74
_lock = threading.Lock()
_last_millisecond = -1
_last_tail = 0


def uuid7(now: datetime) -> UUID:
    """Return a new UUIDv7 for the aware time `now`, in milliseconds (RFC 9562 section 5.7).

    Ids generated one after the other within a millisecond ascend: the random tail grows by a random
    step (section 6.2, method 2). They are unique, not secret.
    """
    global _last_millisecond, _last_tail
    millisecond = (now - _EPOCH) // _MILLISECOND
    with _lock:
        if millisecond == _last_millisecond:
            tail = _last_tail + 1 + secrets.randbits(32)
        else:
            # The top bit stays zero so that the steps can't overflow.
            tail = secrets.randbits(_TAIL_BITS - 1)
        _last_millisecond, _last_tail = millisecond, tail
    high, low = tail >> 62, tail & ((1 << 62) - 1)
    return UUID(int=millisecond << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)
