"""Owns which access tokens of a user are refused once the user has lost something.

Whoever verifies a token by itself knows nothing of the user's row, so the token's `iat` decides:
tokens from the second of the loss or before are refused, and those issued afterwards get a later
`iat`, however soon. For that, the time of issue has to be one at which the token's user was not
read yet, or was locked: then no token that still has what was lost gets a later `iat`.
"""

from datetime import datetime, timedelta

from authsvc.models.ids import UserId
from authsvc.store import revocations
from authsvc.store.postgres.database import Connection

# Replicas follow one clock, the database's, to within half a round trip.
_CLOCK_TOLERANCE = timedelta(milliseconds=100)


async def revoke_tokens(connection: Connection, user_id: UserId, now: datetime) -> datetime:
    """Revoke the access tokens that a user has got by now, and all else that is cached of the user.

    Return the user's new `token_revoke_time`. The caller locked the user's row before reading
    `now`.
    """
    return await revocations.append_user(connection, user_id, now + _CLOCK_TOLERANCE)


def is_refused(issue_time: datetime, token_revoke_time: datetime | None) -> bool:
    """Return whether a token with this `iat`, in whole seconds, is revoked by an event of its user.

    That is so if it is at or before the second of the user's `token_revoke_time`.
    """
    return token_revoke_time is not None and issue_time <= token_revoke_time


def issue_second(time: datetime, token_revoke_time: datetime | None) -> int:
    """Return the `iat` of a token: the time of issue, or the next second that isn't refused."""
    second = int(time.timestamp())
    if token_revoke_time is None:
        return second
    return max(second, int(token_revoke_time.timestamp()) + 1)
