"""Owns the list of the columns whose values are sealed, and what is known about a sealed value."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class SealAlgorithm(StrEnum):
    """The algorithm of a sealed value, as `encryption.algorithm` names it."""

    AES_256_GCM = "AES-256-GCM"
    CHACHA20_POLY1305 = "ChaCha20-Poly1305"


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column of sealed values; `row` is its table's primary key, of the type `row_type`.

    `lasts` means that a value may be needed for as long as its user or key exists. All others
    expire within days.
    """

    table: str
    column: str
    row: str
    row_type: str
    lasts: bool = False

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"

    def place(self, row: object) -> Mapping[str, str]:
        """Return the place of a value, to which it is bound; bytes are written in hex."""
        text = row.hex() if isinstance(row, bytes) else str(row)
        return {"table": self.table, "column": self.column, "row": text}


@dataclass(frozen=True, slots=True)
class SealHeader:
    """The public part of a sealed value: the key that it is sealed under, and how."""

    key_id: str
    algorithm: SealAlgorithm


SIGNING_KEYS = SealedColumn("signing_keys", "sealed_key", "key_id", "text", lasts=True)
SEEDS = SealedColumn("factors", "sealed_seed", "factor_id", "uuid", lasts=True)
MESSAGES = SealedColumn("outbox", "sealed_content", "message_id", "uuid")
VERIFIERS = SealedColumn("oauth_states", "sealed_verifier", "state_hash", "bytea")
ACCOUNTS = SealedColumn("challenges", "sealed_account", "challenge_id", "uuid")
# Everything that is sealed in the database; a test compares this with the schema.
SEALED_COLUMNS = (SIGNING_KEYS, SEEDS, MESSAGES, VERIFIERS, ACCOUNTS)
