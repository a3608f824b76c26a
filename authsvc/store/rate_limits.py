"""Owns the rows of rate_limits: decision and charge, peek, refund, reset, cleanup.

The arithmetic is in a migration, in one function. `at_us` is a time given by a test, in
microseconds since the epoch; without it the database's clock is used, as all replicas share it.

Charges to durable rules and their refunds commit without waiting for the flush: a crash of the
database loses at most the last second of them. So they must not be part of a larger transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import asyncpg

from authsvc.store.postgres.connector import Connection


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """A policy in the database's form; a burst of 0 means none.

    A charge to a shadow rule prevents no other charge of its check.
    """

    policy: str
    algorithm: str
    requests: int
    window_us: int
    burst: int
    durable: bool = False
    shadow: bool = False


class Kind(NamedTuple):
    """Charges that differ only in their key; each is to be granted up to `times` times."""

    rule: Rule
    cost: int
    times: int


class KeysHeld(Exception):
    """Another session holds the row of a key for longer than a statement waits; nothing changed."""


# granted (how many times a charge was granted), remaining (what could be used now), retry_us (time
# until the charge fits again; 0 if it fits now) and reset_us (time until the key is unused again).
Row: TypeAlias = asyncpg.Record


_CHARGE = """
SELECT granted, remaining, retry_us, reset_us
FROM rate_limit_charge($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""


async def charge(
    connection: Connection,
    kinds: Sequence[Kind],
    places: Sequence[int],
    keys: Sequence[str],
    at_us: int | None = None,
) -> list[Row]:
    """Decide on charges to different keys independently; return a row for each, in order.

    `keys[i]` is charged `kinds[places[i]]`. The keys have to be sorted by policy and then by key:
    statements that lock rows in the same order can't deadlock.

    Raises:
        KeysHeld: Nothing was charged.
    """
    rules = [kind.rule for kind in kinds]
    return await _write(
        connection,
        _CHARGE,
        [rule.durable for rule in rules],
        [rule.policy for rule in rules],
        *_columns(rules),
        [kind.cost for kind in kinds],
        [kind.times for kind in kinds],
        [place + 1 for place in places],
        keys,
        at_us,
    )


_CHARGE_TOGETHER = """
SELECT granted, remaining, retry_us, reset_us
FROM rate_limit_charge_together($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
"""


async def charge_together(
    connection: Connection,
    rules: Sequence[Rule],
    keys: Sequence[str],
    costs: Sequence[int],
    sizes: Sequence[int],
    at_us: int | None = None,
) -> list[Row]:
    """Decide on checks, one after another: either all charges of a check are granted, or none.

    The first `sizes[0]` charges are the first check's, and so on; within a check, no two have the
    same policy and key. Return a row for each charge, in order. If a check's charges were not
    granted, those with a retry_us of 0 would have fitted alone. Charges to shadow rules that don't
    fit are left out of their check.

    Raises:
        KeysHeld: Nothing was charged.
    """
    charged = [(rule.policy, key, rule.durable) for rule, key in zip(rules, keys, strict=True)]
    pairs = sorted(set(charged))
    place = {pair: number for number, pair in enumerate(pairs, start=1)}
    return await _write(
        connection,
        _CHARGE_TOGETHER,
        [durable for _, _, durable in pairs],
        [policy for policy, _, _ in pairs],
        [key for _, key, _ in pairs],
        [place[pair] for pair in charged],
        *_columns(rules),
        costs,
        sizes,
        [rule.shadow for rule in rules],
        at_us,
    )


_LOOK = """
SELECT granted, remaining, retry_us, reset_us
FROM rate_limit_look($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""


async def look(
    connection: Connection,
    rules: Sequence[Rule],
    keys: Sequence[str],
    costs: Sequence[int],
    at_us: int | None = None,
) -> list[Row]:
    """Return a row for each charge, in order, without charging anything."""
    return await connection.fetch(
        _LOOK,
        [rule.durable for rule in rules],
        [rule.policy for rule in rules],
        *_columns(rules),
        costs,
        keys,
        at_us,
    )


_REFUND = """
SELECT refunded.granted, refunded.remaining, refunded.retry_us, refunded.reset_us
FROM unnest($1::boolean[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
    $7::bigint[], $8::text[])
    AS taken (durable, policy, algorithm, requests, window_us, burst, cost, key),
LATERAL rate_limit_refund(taken.durable, taken.policy, taken.algorithm, taken.requests,
    taken.window_us, taken.burst, taken.cost, taken.key, $9) AS refunded
"""


async def refund(
    connection: Connection,
    rules: Sequence[Rule],
    keys: Sequence[str],
    costs: Sequence[int],
    at_us: int | None = None,
) -> list[Row]:
    """Refund costs, never more than is in use; return rows as `look` does for a cost of 1.

    The charges have to be sorted by policy and key, as for `charge`.

    Raises:
        KeysHeld: Nothing was refunded.
    """
    return await _write(
        connection,
        _REFUND,
        [rule.durable for rule in rules],
        [rule.policy for rule in rules],
        *_columns(rules),
        costs,
        keys,
        at_us,
    )


_RESET = "SELECT rate_limit_reset($1, $2, $3)"


async def reset(connection: Connection, rule: Rule, key: str) -> None:
    """Reset the use of the key.

    Raises:
        KeysHeld: Nothing was reset.
    """
    try:
        await connection.execute(_RESET, rule.durable, rule.policy, key)
    except asyncpg.LockNotAvailableError:
        raise KeysHeld from None


_HELD = "SELECT place FROM rate_limit_held($1, $2, $3) AS place"


async def held(connection: Connection, rules: Sequence[Rule], keys: Sequence[str]) -> list[int]:
    """Return the indexes of those keys whose rows other sessions hold."""
    rows = await connection.fetch(
        _HELD, [rule.durable for rule in rules], [rule.policy for rule in rules], keys
    )
    return [row["place"] - 1 for row in rows]


# A row's ctid is unique only within a partition.
_DELETE_IDLE = """
WITH durable AS (
    DELETE FROM rate_limits_durable WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM rate_limits_durable WHERE expire_minute < rate_limit_now($2) / 60000000
        ORDER BY expire_minute LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING 1
), unlogged AS (
    DELETE FROM rate_limits_unlogged WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM rate_limits_unlogged WHERE expire_minute < rate_limit_now($2) / 60000000
        ORDER BY expire_minute LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING 1
)
SELECT (SELECT count(*) FROM durable) + (SELECT count(*) FROM unlogged)
"""


async def delete_idle(connection: Connection, limit: int, at_us: int | None = None) -> int:
    """Delete rows that have been unused for a minute or two; return how many.

    Up to `limit` durable and as many others. Locked rows are skipped, so no statement waits.
    """
    return int(await connection.fetchval(_DELETE_IDLE, limit, at_us))


async def _write(connection: Connection, statement: str, *arguments: Any) -> list[Row]:
    durables: list[bool] = arguments[0]
    if connection.is_in_transaction() and any(durables):
        raise RuntimeError("a durable charge or refund must be a transaction of its own")
    try:
        return await connection.fetch(statement, *arguments)
    except asyncpg.LockNotAvailableError:
        raise KeysHeld from None


def _columns(rules: Sequence[Rule]) -> tuple[list[str], list[int], list[int], list[int]]:
    return (
        [rule.algorithm for rule in rules],
        [rule.requests for rule in rules],
        [rule.window_us for rule in rules],
        [rule.burst for rule in rules],
    )
