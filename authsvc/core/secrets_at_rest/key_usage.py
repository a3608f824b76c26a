"""Owns the report of what each key and pepper protects, and the check that none is missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import structlog

from authsvc.core.lib.sealing import Keyring, read_header
from authsvc.errors import ServerError
from authsvc.models.sealing import SEALED_COLUMNS
from authsvc.store import sealed_values as store
from authsvc.store.postgres.database import Connection, Database

RECOVERY_CODES = "recovery_codes.code_hash"
PASSWORDS = "users.password_hash"

log = structlog.get_logger(__name__)


class KeyState(StrEnum):
    """Where a key or pepper stands in the settings.

    `NONE` is for what was made without a key, or before keys were recorded.
    """

    NEWEST = "newest"
    OLDER = "older"
    MISSING = "missing"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Usage:
    """How many values of a column a key protects, and their share of the column's in percent."""

    column: str
    key_id: str
    algorithm: str
    state: KeyState
    count: int
    percent: float


@dataclass(frozen=True, slots=True)
class KeyReport:
    """What the keys and the peppers protect, and which older ones protect nothing stored."""

    keys: Sequence[Usage]
    peppers: Sequence[Usage]
    removable_keys: Sequence[str]
    removable_peppers: Sequence[str]


class KeyUsage:
    """Reports on the keys of the keyring and on the peppers; `pepper_ids` come newest first."""

    def __init__(
        self,
        *,
        database: Database,
        keyring: Keyring,
        pepper_ids: Sequence[str],
        missing_keys: Literal["refuse", "warn"],
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._key_ids = keyring.key_ids
        self._pepper_ids = pepper_ids
        self._missing_keys = missing_keys

    async def report(self) -> KeyReport:
        """Return what each key and pepper protects; this reads whole tables."""
        async with self._database.connection() as connection:
            keys = [*await self._sealed(connection), *await self._recovery_codes(connection)]
            peppers = self._usages(
                PASSWORDS, await store.count_passwords(connection), self._pepper_ids
            )
        return KeyReport(
            keys, peppers, _removable(self._key_ids, keys), _removable(self._pepper_ids, peppers)
        )

    async def check(self) -> None:
        """Check that no key is missing that signing keys, second factors or passwords need.

        With `missing_keys` set to `warn`, a missing one is only logged.

        Raises:
            ServerError: A key or pepper is missing; the message names it.
        """
        problems = await self.missing()
        if not problems:
            return
        if self._missing_keys == "refuse":
            raise ServerError(
                f"{'; '.join(problems)}. Add what is missing to the settings again, or accept the"
                ' loss with encryption.missing_keys = "warn"'
            )
        for problem in problems:
            log.error("key_missing", problem=problem)

    async def missing(self) -> Sequence[str]:
        """Return a sentence for each key and pepper that is missing; may raise StoreUnavailable."""
        async with self._database.connection() as connection:
            return [
                *await self._missing_keys_of(connection),
                *await self._missing_peppers(connection),
            ]

    async def _missing_keys_of(self, connection: Connection) -> Sequence[str]:
        missing: dict[str, list[str]] = {}
        for column in SEALED_COLUMNS:
            if not column.lasts:
                continue
            for raw in await store.list_headers(connection, column):
                header = read_header(raw)
                if header is not None and header.key_id not in self._key_ids:
                    missing.setdefault(header.key_id, []).append(str(column))
        return [
            f'secrets.keyring has no key "{key_id}", under which values of {" and ".join(columns)}'
            " are sealed"
            for key_id, columns in sorted(missing.items())
        ]

    async def _missing_peppers(self, connection: Connection) -> Sequence[str]:
        return [
            f'secrets.peppers has no pepper "{pepper_id}", with which passwords are hashed'
            for pepper_id in await store.list_peppers(connection)
            if pepper_id not in self._pepper_ids
        ]

    async def _sealed(self, connection: Connection) -> Sequence[Usage]:
        found = []
        for column in SEALED_COLUMNS:
            counts = await store.count_by_header(connection, column)
            total = sum(counts.values())
            for raw, count in counts.items():
                header = read_header(raw)
                key_id = header.key_id if header else ""
                found.append(
                    Usage(
                        str(column),
                        key_id,
                        header.algorithm if header else "",
                        _state(key_id, self._key_ids),
                        count,
                        _percent(count, total),
                    )
                )
        return found

    async def _recovery_codes(self, connection: Connection) -> Sequence[Usage]:
        counts = await store.count_recovery_codes(connection)
        return self._usages(RECOVERY_CODES, counts, self._key_ids)

    @staticmethod
    def _usages(column: str, counts: dict[str, int], known: Sequence[str]) -> Sequence[Usage]:
        total = sum(counts.values())
        return [
            Usage(column, key_id, "", _state(key_id, known), count, _percent(count, total))
            for key_id, count in counts.items()
        ]


def _state(key_id: str, known: Sequence[str]) -> KeyState:
    if not key_id:
        return KeyState.NONE
    if key_id not in known:
        return KeyState.MISSING
    return KeyState.NEWEST if key_id == known[0] else KeyState.OLDER


def _percent(count: int, total: int) -> float:
    return round(100 * count / total, 2)


def _removable(known: Sequence[str], usages: Sequence[Usage]) -> Sequence[str]:
    """Return the older keys that protect nothing.

    Recovery codes of an unknown key may be of any.
    """
    if any(not usage.key_id and usage.column == RECOVERY_CODES for usage in usages):
        return ()
    used = {usage.key_id for usage in usages}
    return [key_id for key_id in known[1:] if key_id not in used]
