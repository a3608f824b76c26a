"""Owns the rows of rate_limits: decision and charge, peek, refund, reset, cleanup.

The arithmetic is in the migration, in one function. `at_us` is a time given by a test, in
microseconds since the epoch; without it the database's clock is used, as all replicas share it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import asyncpg

from authsvc.store.postgres.connector import Connection


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """A policy in the database's form; a burst of 0 means none."""

    policy: str
    algorithm: str
    requests: int
    window_us: int
    burst: int


class Kind(NamedTuple):
    """Charges that differ only in their key; each is to be granted up to `times` times."""

    rule: Rule
    cost: int
    times: int


# granted (how many times a charge was granted), remaining (what could be used now), retry_us (time
# until the charge fits again; 0 if it fits now) and reset_us (time until the key is unused again).
Row: TypeAlias = asyncpg.Record


_CHARGE = """
SELECT granted, remaining, retry_us, reset_us
FROM rate_limit_charge($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
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
    """
    rules = [kind.rule for kind in kinds]
    return await connection.fetch(
        _CHARGE,
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
FROM rate_limit_charge_together($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
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
    granted, those with a retry_us of 0 would have fitted alone.
    """
    charged = [(rule.policy, key) for rule, key in zip(rules, keys, strict=True)]
    pairs = sorted(set(charged))
    place = {pair: number for number, pair in enumerate(pairs, start=1)}
    return await connection.fetch(
        _CHARGE_TOGETHER,
        [policy for policy, _ in pairs],
        [key for _, key in pairs],
        [place[pair] for pair in charged],
        *_columns(rules),
        costs,
        sizes,
        at_us,
    )


_LOOK = """
SELECT granted, remaining, retry_us, reset_us
FROM rate_limit_look($1, $2, $3, $4, $5, $6, $7, $8)
"""


async def look(
    connection: Connection,
    rules: Sequence[Rule],
    keys: Sequence[str],
    costs: Sequence[int],
    at_us: int | None = None,
) -> list[Row]:
    """Return a row for each charge, in order, without charging anything."""
    policies = [rule.policy for rule in rules]
    return await connection.fetch(_LOOK, policies, *_columns(rules), costs, keys, at_us)


_REFUND = """
SELECT refunded.granted, refunded.remaining, refunded.retry_us, refunded.reset_us
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
    $7::text[]) AS taken (policy, algorithm, requests, window_us, burst, cost, key),
LATERAL rate_limit_refund(taken.policy, taken.algorithm, taken.requests, taken.window_us,
    taken.burst, taken.cost, taken.key, $8) AS refunded
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
    """
    policies = [rule.policy for rule in rules]
    return await connection.fetch(_REFUND, policies, *_columns(rules), costs, keys, at_us)


_RESET = "DELETE FROM rate_limits WHERE policy = $1 AND key = $2"


async def reset(connection: Connection, policy: str, key: str) -> None:
    """Reset the use of the key."""
    await connection.execute(_RESET, policy, key)


_DELETE_IDLE = """
DELETE FROM rate_limits WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM rate_limits WHERE expire_minute < rate_limit_now($2) / 60000000
    ORDER BY expire_minute LIMIT $1 FOR UPDATE SKIP LOCKED))
"""


async def delete_idle(connection: Connection, limit: int, at_us: int | None = None) -> int:
    """Delete up to `limit` rows that have been unused for a minute or two; return how many.

    Locked rows are skipped, so that no statement waits.
    """
    return int((await connection.execute(_DELETE_IDLE, limit, at_us)).removeprefix("DELETE "))


def _columns(rules: Sequence[Rule]) -> tuple[list[str], list[int], list[int], list[int]]:
    return (
        [rule.algorithm for rule in rules],
        [rule.requests for rule in rules],
        [rule.window_us for rule in rules],
        [rule.burst for rule in rules],
    )
