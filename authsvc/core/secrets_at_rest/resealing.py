"""Owns the resealing of stored values under the newest key, while the service is running.

Values are replaced only if they are still the ones that were read, so nothing that is written
meanwhile is lost. What has been done is recorded by the values themselves: an interrupted run is
continued by the next one.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.lib.sealing import Keyring, SealError, read_header
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.sealing import SEALED_COLUMNS, SealedColumn
from authsvc.store import sealed_values as store
from authsvc.store.postgres.database import Database
from authsvc.store.sealed_values import Resealed, SealedValue

# Values that somebody held or changed are read again this often.
_PASSES = 3


@dataclass(slots=True)
class ResealCounts:
    """How many values were resealed, and how many can't be opened, by column and key id."""

    resealed: Counter[SealedColumn] = field(default_factory=Counter)
    unreadable: Counter[tuple[SealedColumn, str]] = field(default_factory=Counter)


class Resealing:
    """Reseals what is sealed under older keys or with another algorithm than the current one."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock

    async def count(self) -> Counter[SealedColumn]:
        """Return how many values of each column are not sealed under the newest key."""
        current = self._keyring.newest_header
        found: Counter[SealedColumn] = Counter()
        async with self._database.connection() as connection:
            for column in SEALED_COLUMNS:
                headers = await store.count_by_header(connection, column)
                found[column] = sum(headers.values()) - headers.get(current, 0)
        return found

    async def run(
        self, call: Call, *, batch_size: int, progress: Callable[[int], object]
    ) -> ResealCounts:
        """Reseal everything, in batches; `progress` is called with the number of values processed.

        A value that can't be opened stays as it is. So does one that is held by others all the
        time, which the next run will find. A run is recorded before it begins.
        """
        counts = ResealCounts()
        event = AuditEvent(
            AuditType.KEY_RESEAL, call, detail={"key_id": self._keyring.newest.key_id}
        )
        async with self._database.transaction() as connection:
            await record_event(connection, self._clock.now(), event)
        for column in SEALED_COLUMNS:
            for number in range(_PASSES):
                missed = await self._pass(column, counts, batch_size, progress, first=not number)
                if not missed:
                    break
        return counts

    async def _pass(
        self,
        column: SealedColumn,
        counts: ResealCounts,
        batch_size: int,
        progress: Callable[[int], object],
        *,
        first: bool,
    ) -> int:
        """Go through a column once; return how many values others held or changed meanwhile."""
        missed, after = 0, None
        while values := await self._read(column, after, batch_size):
            after = values[-1].row
            # Values that can't be opened are found again by each pass, but counted once.
            unreadable = counts.unreadable if first else Counter()
            resealed = self._reseal(column, values, unreadable)
            async with self._database.transaction() as connection:
                replaced = await store.replace(connection, column, resealed)
            counts.resealed[column] += replaced
            missed += len(resealed) - replaced
            progress(replaced + (len(values) - len(resealed) if first else 0))
        return missed

    async def _read(self, column: SealedColumn, after: object, limit: int) -> Sequence[SealedValue]:
        async with self._database.connection() as connection:
            return await store.list_others(
                connection, column, after, self._keyring.newest_header, limit
            )

    def _reseal(
        self,
        column: SealedColumn,
        values: Sequence[SealedValue],
        unreadable: Counter[tuple[SealedColumn, str]],
    ) -> Sequence[Resealed]:
        resealed = []
        for value in values:
            place = column.place(value.row)
            try:
                plaintext = self._keyring.open(value.sealed, **place)
            except SealError:
                header = read_header(value.sealed)
                unreadable[column, header.key_id if header else ""] += 1
                continue
            resealed.append(Resealed(value, self._keyring.seal(plaintext, **place)))
        return resealed
