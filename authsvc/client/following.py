"""Owns how a verifier follows the stream of revocations, without any input or output.

The feeds of the two clients do what is decided here: when to open the stream, when to give it up,
and how long to wait before the next attempt.
"""

import logging

from authsvc.client.errors import AuthsvcError, CursorTooOld
from authsvc.client.jitter import JITTER
from authsvc.client.knowledge import Knowledge
from authsvc.v1.session_service_pb2 import WatchRevocationsRequest, WatchRevocationsResponse

_log = logging.getLogger("authsvc.client")

# Seconds without a response after which the other side counts as dead: it sends four a second.
# The first response may take a handshake longer.
_SILENCE = 1.0
_FIRST_SILENCE = 3.0
# Seconds that responses may lag behind, and for how long, until another stream is tried.
_LAG = 1.0
_LAG_LASTS = 2.0
# Seconds after which a stream is renewed, as clocks drift apart.
_LONGEST = 300.0
# Seconds to wait before another attempt, at most. They double, and each wait is drawn at random
# from the whole span, so that the return of the service finds no herd at its door.
_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 5.0
# A stream that lasted so long was a good one.
_GOOD = 5.0


class Following:
    """The state of one stream after another."""

    def __init__(self, knowledge: Knowledge) -> None:
        self._knowledge = knowledge
        self._opened = self._last = self._renew_at = 0.0
        self._patience = _FIRST_SILENCE
        self._lags_since: float | None = None
        self._is_complete = False
        self._failures = 0
        self._last_logged = ""

    def open(self, now: float) -> WatchRevocationsRequest:
        """Begin a stream; return its request."""
        self._knowledge.counts["streams"] += 1
        self._opened = self._last = now
        self._renew_at = now + _LONGEST * JITTER.uniform(0.8, 1)
        self._patience, self._lags_since, self._is_complete = _FIRST_SILENCE, None, False
        self._knowledge.known_until.open(now)
        return WatchRevocationsRequest(cursor=self._knowledge.cursor)

    def receive(self, response: WatchRevocationsResponse, now: float) -> bool:
        """Take in a response; return whether to go on with this stream.

        Raises:
            ValueError: It is not a response of this service.
        """
        self._last, self._patience = now, _SILENCE
        is_datable = self._knowledge.receive(response, now)
        if response.complete and not self._is_complete:
            self._is_complete = True
            self._log_once(logging.INFO, "knows what was revoked")
        return is_datable and not self._lags(now) and now < self._renew_at

    def silent_at(self) -> float:
        """Return when the other side counts as dead unless a response arrives before."""
        return self._last + self._patience

    def end(self, error: Exception | None, now: float) -> float:
        """End the stream; return how many seconds to wait before the next one."""
        if isinstance(error, CursorTooOld):
            self._knowledge.begin_anew()
        if self._is_complete and now - self._opened >= _GOOD:
            self._failures = 0
        longest = min(_FIRST_BACKOFF * 2.0 ** min(self._failures, 10), _LONGEST_BACKOFF)
        self._failures += 1
        wait = JITTER.uniform(0, longest)
        if isinstance(error, AuthsvcError) and error.retry_after is not None:
            wait += error.retry_after.total_seconds()
        if self._failures > 1 or not self._is_complete:
            self._log_once(
                logging.WARNING, f"does not hear what is revoked: {error or 'no response'}"
            )
        return wait

    def _lags(self, now: float) -> bool:
        """Return whether responses come, but have lagged behind for a while.

        The database's clock was set back, or this replica can't read the log.
        """
        if not self._is_complete or now - self._knowledge.known_until.time <= _LAG:
            self._lags_since = None
            return False
        if self._lags_since is None:
            self._lags_since = now
        return now - self._lags_since >= _LAG_LASTS

    def _log_once(self, level: int, message: str) -> None:
        if self._last_logged != message:
            self._last_logged = message
            _log.log(level, "the verifier %s", message)
