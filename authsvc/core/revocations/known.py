"""Owns what this process knows of the revocation log, and whether that includes a given cursor."""

from authsvc.models.revocations import RevocationCursor
from authsvc.store.log_reading import Position


class KnownRevocations:
    """How far this process has read the revocation log and dropped what was revoked."""

    def __init__(self) -> None:
        self._position: Position | None = None

    def advance(self, position: Position) -> None:
        """Note that everything up to this position has been dropped from the caches."""
        self._position = position

    def lack(self, cursor: RevocationCursor | None) -> bool:
        """Return whether what the cursor names may still be cached; without a cursor, it isn't.

        So it is if the cursor is of another run of the server: nothing is known about that.
        """
        if cursor is None:
            return False
        position = self._position
        return (
            position is None
            or position.run_id != cursor.run_id
            or not position.knows(cursor.transaction)
        )
