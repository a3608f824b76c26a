"""Owns the versions of what administrators define while the service runs: policies and roles."""

from collections.abc import Mapping
from enum import StrEnum
from uuid import UUID

from authsvc.store.doorbell import Channel, ring_after_commit
from authsvc.store.postgres.connector import Connection, known_timeline


class Topic(StrEnum):
    """What has definitions with a version of their own."""

    POLICIES = "policies"
    ROLES = "roles"


_CHANGE = "UPDATE definition_versions SET version = gen_random_uuid() WHERE topic = $1"


async def change(connection: Connection, topic: Topic) -> None:
    """Give the topic's definitions a new version; the doorbell rings once it is committed.

    Has to come first in the transaction that changes them: it makes other changes of the topic wait
    for the end of this one.
    """
    await connection.execute(_CHANGE, topic)
    ring_after_commit(connection, Channel.DEFINITIONS)


_READ = "SELECT topic, version FROM definition_versions WHERE (SELECT require_primary($1))"


async def versions(connection: Connection) -> Mapping[str, UUID]:
    """Return the version of each topic's definitions.

    Fails on a server that was replaced. What is read afterwards is of this version or a newer one.
    """
    rows = await connection.fetch(_READ, known_timeline(connection))
    return {row["topic"]: row["version"] for row in rows}
