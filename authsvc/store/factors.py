"""Owns the rows of factors: enrolment, confirmation, use, removal.

Callers that add, confirm or remove a factor lock the user's row (`users.lock_user`) and finally
call `update_flag`, so that `users.has_second_factor` always agrees with the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from authsvc.models.factors import Factor, FactorKind
from authsvc.models.ids import FactorId, UserId
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class Seed:
    """The sealed shared secret of an authenticator app."""

    factor_id: FactorId
    sealed: bytes = field(repr=False)


_UPDATE_FLAG = """
UPDATE users SET has_second_factor = EXISTS (
    SELECT FROM factors WHERE factors.user_id = $1 AND confirm_time IS NOT NULL)
WHERE user_id = $1
RETURNING has_second_factor
"""


async def update_flag(connection: Connection, user_id: UserId) -> bool:
    """Set `users.has_second_factor` according to the rows of factors, and return it.

    The caller has locked the user's row; otherwise a parallel change could be missed.
    """
    return bool(await connection.fetchval(_UPDATE_FLAG, user_id))


_COUNT = "SELECT count(*) FROM factors WHERE user_id = $1 AND confirm_time IS NOT NULL"


async def count(connection: Connection, user_id: UserId) -> int:
    """Return how many confirmed factors of any kind the user has."""
    return int(await connection.fetchval(_COUNT, user_id))


_LIST = """
SELECT factor_id, kind, name, create_time, last_use_time FROM factors
WHERE user_id = $1 AND confirm_time IS NOT NULL ORDER BY factor_id
"""


async def list_confirmed(connection: Connection, user_id: UserId) -> Sequence[Factor]:
    """Return the user's confirmed factors, oldest first."""
    return [_factor(row) for row in await connection.fetch(_LIST, user_id)]


_REMOVE = """
DELETE FROM factors WHERE factor_id = $1 AND user_id = $2 AND confirm_time IS NOT NULL
RETURNING factor_id, kind, name, create_time, last_use_time
"""


async def remove(connection: Connection, factor_id: FactorId, user_id: UserId) -> Factor | None:
    """Remove one of the user's factors; return None if the user has no such confirmed factor."""
    row = await connection.fetchrow(_REMOVE, factor_id, user_id)
    return None if row is None else _factor(row)


_CAN_BEGIN_LOGIN = """
SELECT password_hash IS NOT NULL
    OR EXISTS (SELECT FROM identities WHERE identities.user_id = $1)
    OR EXISTS (SELECT FROM factors WHERE factors.user_id = $1 AND kind = 'passkey'
               AND confirm_time IS NOT NULL)
FROM users WHERE user_id = $1
"""


async def can_begin_login(connection: Connection, user_id: UserId) -> bool:
    """Return whether the user has a password, an identity at a provider, or a passkey."""
    return bool(await connection.fetchval(_CAN_BEGIN_LOGIN, user_id))


# An unconfirmed app is replaced: there is at most one.
_REPLACE_UNCONFIRMED = """
WITH replaced AS (
    DELETE FROM factors WHERE user_id = $2 AND kind = 'totp' AND confirm_time IS NULL
)
INSERT INTO factors (factor_id, user_id, kind, name, create_time, sealed_seed)
VALUES ($1, $2, 'totp', $3, $4, $5)
"""


async def replace_unconfirmed(
    connection: Connection, user_id: UserId, seed: Seed, name: str, now: datetime
) -> None:
    """Store an unconfirmed authenticator app in place of an earlier one."""
    await connection.execute(_REPLACE_UNCONFIRMED, seed.factor_id, user_id, name, now, seed.sealed)


_FIND_UNCONFIRMED = """
SELECT factor_id, sealed_seed, email_canonical FROM factors JOIN users USING (user_id)
WHERE factor_id = $1 AND user_id = $2 AND kind = 'totp' AND confirm_time IS NULL
"""


async def find_unconfirmed(
    connection: Connection, factor_id: FactorId, user_id: UserId
) -> tuple[Seed, str] | None:
    """Return an unconfirmed authenticator app, and its user's canonical address."""
    row = await connection.fetchrow(_FIND_UNCONFIRMED, factor_id, user_id)
    return None if row is None else (_seed(row), row["email_canonical"])


_CONFIRM = """
UPDATE factors SET confirm_time = $3, last_step = $4
WHERE factor_id = $1 AND user_id = $2 AND confirm_time IS NULL
RETURNING factor_id
"""


async def confirm(
    connection: Connection, factor_id: FactorId, user_id: UserId, now: datetime, step: int
) -> bool:
    """Confirm an authenticator app; `step` is the time step of its first code.

    Return False if it is already confirmed, was replaced or is not the user's.
    """
    found = await connection.fetchval(_CONFIRM, factor_id, user_id, now, step)
    return found is not None


_LIST_SEEDS = """
SELECT factor_id, sealed_seed FROM factors
WHERE user_id = $1 AND kind = 'totp' AND confirm_time IS NOT NULL ORDER BY factor_id
"""


async def list_seeds(connection: Connection, user_id: UserId) -> Sequence[Seed]:
    """Return the user's confirmed authenticator apps."""
    return [_seed(row) for row in await connection.fetch(_LIST_SEEDS, user_id)]


# RFC 6238, section 5.2: a code is accepted once. A second call with it finds the step used up.
_CLAIM_STEP = """
UPDATE factors SET last_step = $2, last_use_time = $3
WHERE factor_id = $1 AND (last_step IS NULL OR last_step < $2)
RETURNING factor_id
"""


async def claim_step(connection: Connection, factor_id: FactorId, step: int, now: datetime) -> bool:
    """Use up a time step and all before it; return False if it was used or the factor removed."""
    return await connection.fetchval(_CLAIM_STEP, factor_id, step, now) is not None


def _factor(row: asyncpg.Record) -> Factor:
    return Factor(
        FactorId(row["factor_id"]),
        FactorKind(row["kind"]),
        row["name"],
        row["create_time"],
        row["last_use_time"],
    )


def _seed(row: asyncpg.Record) -> Seed:
    return Seed(FactorId(row["factor_id"]), row["sealed_seed"])
