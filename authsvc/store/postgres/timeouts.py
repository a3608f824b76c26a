"""Owns the timeouts that the server applies, so that a frozen replica holds nothing up for long."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from authsvc.config import DatabaseSettings

# PostgreSQL counts milliseconds in 32 bits.
_LONGEST = 2**31 - 1
# When the other side is silent, a connection is closed after 30 + 3 * 10 seconds. PostgreSQL
# ignores these on a Unix socket.
_KEEPALIVES = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
# Expressions that set it for a transaction or a session, where there is such a setting. Migrations
# take as long as they take, whatever limit the role has.
NO_TRANSACTION_TIMEOUT, NO_TRANSACTION_TIMEOUTS = (
    f"""(
    SELECT set_config('transaction_timeout', '0', {is_local})
    WHERE current_setting('transaction_timeout', true) IS NOT NULL
)"""
    for is_local in ("true", "false")
)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds for a lock, and for a statement.

    A client that is silent within a transaction has as long as a statement, and a whole transaction
    twice as long.
    """

    lock: float
    statement: float

    @classmethod
    def of(cls, settings: DatabaseSettings) -> Self:
        """Return the timeouts of the settings."""
        return cls(settings.lock_timeout.total_seconds(), settings.command_timeout.total_seconds())

    def session(self, *, whole_transaction: bool) -> Mapping[str, str]:
        """Return the settings of a session of the server that belongs to one connection."""
        own = {"statement_timeout": _milliseconds(self.statement)} | _KEEPALIVES
        return self._transaction(whole_transaction=whole_transaction) | own

    def begin(self, *, whole_transaction: bool) -> str:
        """Return the statements that begin a transaction in a session shared with others."""
        settings = self._transaction(whole_transaction=whole_transaction)
        return "; ".join(
            ("BEGIN", *(f"SET LOCAL {name} = {value}" for name, value in settings.items()))
        )

    def _transaction(self, *, whole_transaction: bool) -> dict[str, str]:
        settings = {
            "lock_timeout": _milliseconds(self.lock),
            "idle_in_transaction_session_timeout": _milliseconds(self.statement),
        }
        if whole_transaction:  # PostgreSQL 17 and newer
            settings["transaction_timeout"] = _milliseconds(2 * self.statement)
        return settings


def _milliseconds(seconds: float) -> str:
    return str(min(max(1, round(seconds * 1_000)), _LONGEST))
