"""Owns the rows of ip_blocks. Networks are texts in CIDR notation, with the length of the prefix.

A row is the newest block of its network; once it has ended, it says so until it is removed. Each
change notes its transaction, so that replicas can read what has changed since.
"""

from collections.abc import Sequence
from datetime import datetime

from authsvc.models.ip_blocks import IpBlock
from authsvc.store.doorbell import Channel, ring_after_commit
from authsvc.store.log_reading import Log
from authsvc.store.postgres.connector import Connection, known_timeline

_PUT = """
INSERT INTO ip_blocks (network, reason, blocked_by, automatic, create_time, expire_time)
VALUES ($1::text::cidr, $2, $3, $4, $5, $6)
ON CONFLICT (network) DO UPDATE SET
    reason = excluded.reason, blocked_by = excluded.blocked_by, automatic = excluded.automatic,
    create_time = excluded.create_time, expire_time = excluded.expire_time,
    transaction_id = pg_current_xact_id()
"""


async def put(connection: Connection, block: IpBlock) -> None:
    """Store a block, in place of the network's last one; replicas are told after the commit."""
    await connection.execute(
        _PUT,
        block.network,
        block.reason,
        block.blocked_by,
        block.automatic,
        block.create_time,
        block.expire_time,
    )
    ring_after_commit(connection, Channel.IP_BLOCKS)


# Sorted, so that statements that lock rows can't deadlock.
_PUT_AUTOMATIC = """
INSERT INTO ip_blocks (network, reason, blocked_by, automatic, create_time, expire_time)
SELECT network, $2, $3, true, $4, $5
FROM unnest($1::text[]::cidr[]) AS network ORDER BY network
ON CONFLICT (network) DO UPDATE SET
    reason = excluded.reason, blocked_by = excluded.blocked_by, automatic = excluded.automatic,
    create_time = excluded.create_time, expire_time = excluded.expire_time,
    transaction_id = pg_current_xact_id()
WHERE ip_blocks.expire_time <= excluded.create_time
RETURNING network::text
"""


async def put_automatic(
    connection: Connection,
    networks: Sequence[str],
    *,
    reason: str,
    blocked_by: str,
    now: datetime,
    expire_time: datetime,
) -> list[str]:
    """Block those of the networks that are not blocked yet, and return them."""
    rows = await connection.fetch(_PUT_AUTOMATIC, networks, reason, blocked_by, now, expire_time)
    ring_after_commit(connection, Channel.IP_BLOCKS)
    return [row["network"] for row in rows]


_END = """
UPDATE ip_blocks SET expire_time = $2, transaction_id = pg_current_xact_id()
WHERE network = $1::text::cidr AND (expire_time IS NULL OR expire_time > $2)
RETURNING true
"""


async def end(connection: Connection, network: str, now: datetime) -> bool:
    """End the block of this very network; return whether there was one."""
    ended = await connection.fetchval(_END, network, now)
    ring_after_commit(connection, Channel.IP_BLOCKS)
    return bool(ended)


# Seconds since the epoch, or infinity.
_END_TIME = "coalesce(extract(epoch FROM expire_time)::float8, 'infinity')"
_IS_ACTIVE = "(expire_time IS NULL OR expire_time > $1)"
# `require_primary` makes it fail on a server that was replaced, also if it finds nothing.
_END_OF = f"""
SELECT max({_END_TIME}) FROM ip_blocks
WHERE network = ANY (ip_supernets($2::text::inet)) AND {_IS_ACTIVE}
    AND (SELECT require_primary($3))
"""  # noqa: S608 - made of constants


async def end_of(connection: Connection, address: str, now: datetime) -> float:
    """Return until when an address is blocked, in seconds since the epoch; 0 if it is not."""
    timeline = known_timeline(connection)
    return float(await connection.fetchval(_END_OF, now, address, timeline) or 0.0)


_COLUMNS = "network::text, reason, blocked_by, automatic, create_time, expire_time"
_LIST = f"""
SELECT {_COLUMNS} FROM ip_blocks
WHERE ($2::text IS NULL OR network > $2::text::cidr) AND {_IS_ACTIVE}
ORDER BY ip_blocks.network LIMIT $3
"""  # noqa: S608 - made of constants
_COVERING = f"""
SELECT {_COLUMNS} FROM ip_blocks
WHERE network = ANY (ip_supernets($2::text::inet)) AND {_IS_ACTIVE}
ORDER BY ip_blocks.network
"""  # noqa: S608 - made of constants


async def list_after(
    connection: Connection, now: datetime, after: str | None, limit: int
) -> list[IpBlock]:
    """Return up to `limit` blocks that are in force, in the order of their networks.

    A network comes before those that it contains.
    """
    return [IpBlock(**row) for row in await connection.fetch(_LIST, now, after, limit)]


async def covering(connection: Connection, part: str, now: datetime) -> list[IpBlock]:
    """Return the blocks in force of a network or address, and of networks that contain it."""
    return [IpBlock(**row) for row in await connection.fetch(_COVERING, now, part)]


_LOAD = f"""
SELECT network::text AS network, {_END_TIME} AS end_time FROM ip_blocks
WHERE ($2::text IS NULL OR network > $2::text::cidr) AND {_IS_ACTIVE}
ORDER BY ip_blocks.network LIMIT $3
"""  # noqa: S608 - made of constants


async def load_after(
    connection: Connection, now: datetime, after: str | None, limit: int
) -> list[tuple[str, float]]:
    """Return the next networks that are blocked, and until when, in the order of `list_after`."""
    return [tuple(row) for row in await connection.fetch(_LOAD, now, after, limit)]


# Each change of a block, as its network and end.
LOG = Log(
    table="ip_blocks",
    key="block_id",
    first_key=0,
    columns=f"network::text AS network, {_END_TIME} AS end_time",
    parse=lambda record: (str(record["network"]), float(record["end_time"])),
)


_DELETE_ENDED = """
DELETE FROM ip_blocks WHERE network = ANY (ARRAY(
    SELECT network FROM ip_blocks WHERE expire_time < $1
    ORDER BY expire_time LIMIT $2 FOR UPDATE SKIP LOCKED))
"""


async def delete_ended(connection: Connection, ended_before: datetime, limit: int) -> int:
    """Delete blocks that ended before that time; return how many."""
    tag = await connection.execute(_DELETE_ENDED, ended_before, limit)
    return int(tag.rpartition(" ")[2])
