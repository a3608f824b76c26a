"""Owns what was revoked, in little memory: whether a token's session or user is among it.

A million revocations take about 35 MB. The ids are divided by their hash among thousands of short
byte strings, each a sequence of records that the interpreter searches at the speed of C. One thread
writes, and any number read without a lock: a byte string never changes, it is replaced.
"""

import struct
from itertools import repeat

_KEY_BYTES = 16
_RECORD = struct.Struct("<16sII")
_SIZE = _RECORD.size
_ALL = 0xFFFF_FFFF
_MASK = (1 << 15) - 1
# Byte strings cleaned at a time, in less than a millisecond.
_SWEPT = 128


class Revoked:
    """Sessions, and users with the second up to which their tokens are refused.

    Ids are the 16 bytes of UUIDs, times are seconds since 1970. An entry stays until the time at
    which no token that it refuses can be valid any more, and a little longer: `sweep` looks at a
    part of the entries at a time.
    """

    def __init__(self) -> None:
        self._sessions, self._users = _Table(), _Table()
        self._session_shards, self._user_shards = self._sessions.shards, self._users.shards

    def __len__(self) -> int:
        return self._sessions.count + self._users.count

    def add_session(self, session: bytes, expires: float) -> None:
        """Refuse all tokens of a session."""
        self._sessions.put(session, _ALL, expires)

    def add_user(self, user: bytes, second: int, expires: float) -> None:
        """Refuse a user's tokens that were issued in this second or before."""
        self._users.put(user, second, expires)

    def covers(self, session: bytes, user: bytes, issued: int) -> bool:
        """Return whether a token of this session and user, issued at this second, is refused."""
        # Nearly always it is not: that is found out without a call.
        return (
            session in self._session_shards[hash(session) & _MASK]
            and self._sessions.last_second(session) >= 0
        ) or (
            user in self._user_shards[hash(user) & _MASK]
            and self._users.last_second(user) >= issued
        )

    def sweep(self, now: float) -> None:
        """Remove some of the entries that have expired; all are looked at in 256 calls."""
        self._sessions.sweep(now)
        self._users.sweep(now)


class _Table:
    def __init__(self) -> None:
        self.count = 0
        self.shards = list(repeat(b"", _MASK + 1))
        self._next = 0

    def last_second(self, key: bytes) -> int:
        """Return the second of a key, or -1 if there is no such key."""
        shard = self.shards[hash(key) & _MASK]
        at = _find(shard, key)
        if at < 0:
            return -1
        return int.from_bytes(shard[at + _KEY_BYTES : at + _KEY_BYTES + 4], "little")

    def put(self, key: bytes, second: int, expires: float) -> None:
        """Set the second of a key, unless it has a later one; keep it until the later expiry."""
        index = hash(key) & _MASK
        shard = self.shards[index]
        second, end = min(second, _ALL), min(int(expires) + 1, _ALL)
        at = _find(shard, key)
        if at < 0:
            self.shards[index] = shard + _RECORD.pack(key, second, end)
            self.count += 1
            return
        _, earlier, earlier_end = _RECORD.unpack_from(shard, at)
        record = _RECORD.pack(key, max(second, earlier), max(end, earlier_end))
        if record != shard[at : at + _SIZE]:
            self.shards[index] = shard[:at] + record + shard[at + _SIZE :]

    def sweep(self, now: float) -> None:
        start = self._next
        self._next = (start + _SWEPT) & _MASK
        for index in range(start, start + _SWEPT):
            shard = self.shards[index]
            if not shard:
                continue
            kept = [record for record in _RECORD.iter_unpack(shard) if record[2] > now]
            removed = len(shard) // _SIZE - len(kept)
            if removed:
                self.shards[index] = b"".join(_RECORD.pack(*record) for record in kept)
                self.count -= removed


def _find(shard: bytes, key: bytes) -> int:
    """Return where the record of a key begins, or -1."""
    at = shard.find(key)
    # The key's bytes may also stand across two records.
    while at >= 0 and at % _SIZE:
        at = shard.find(key, at + 1)
    return at
