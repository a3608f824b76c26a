"""Owns the rows of passkeys, which are factors, and of the challenges for passkeys."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import asyncpg

from authsvc.models.ids import FactorId, UserId
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class Passkey:
    """A stored passkey: the credential id on the user's device, and its key (COSE, RFC 9052)."""

    factor_id: FactorId
    user_id: UserId
    credential_id: bytes
    public_key: bytes = field(repr=False)
    transports: tuple[str, ...]
    backup_eligible: bool


@dataclass(frozen=True, slots=True)
class NewPasskey:
    """A passkey to store; it is confirmed at once."""

    passkey: Passkey
    name: str
    sign_count: int
    create_time: datetime


@dataclass(frozen=True, slots=True)
class RegistrationChallenge:
    """A challenge for the user's next passkey.

    `conditional` if the browser may create the passkey without a gesture of the user.
    """

    challenge: bytes = field(repr=False)
    conditional: bool


@dataclass(frozen=True, slots=True)
class LoginChallenge:
    """A challenge that a passkey has to sign for a login.

    `sealed_account` is the address that the login was started for, or None if it was for no
    address.
    """

    challenge_id: UUID
    challenge: bytes = field(repr=False)
    sealed_account: bytes | None = field(repr=False)


_INSERT = """
INSERT INTO factors (factor_id, user_id, kind, name, create_time, confirm_time,
                     credential_id, public_key, sign_count, transports, backup_eligible)
VALUES ($1, $2, 'passkey', $3, $4, $4, $5, $6, $7, $8, $9)
ON CONFLICT (credential_id) DO NOTHING
RETURNING factor_id
"""


async def insert(connection: Connection, new: NewPasskey) -> bool:
    """Store a passkey; return False if any user already has its credential id.

    The caller has locked the user's row, and calls `factors.update_flag`.
    """
    passkey = new.passkey
    inserted = await connection.fetchval(
        _INSERT,
        passkey.factor_id,
        passkey.user_id,
        new.name,
        new.create_time,
        passkey.credential_id,
        passkey.public_key,
        new.sign_count,
        passkey.transports,
        passkey.backup_eligible,
    )
    return inserted is not None


_COLUMNS = "factor_id, user_id, credential_id, public_key, transports, backup_eligible"
_LIST = f"""
SELECT {_COLUMNS} FROM factors
WHERE user_id = $1 AND kind = 'passkey' AND confirm_time IS NOT NULL ORDER BY factor_id
"""  # noqa: S608 - made of constants


async def list_of_user(connection: Connection, user_id: UserId) -> Sequence[Passkey]:
    """Return the user's passkeys, oldest first."""
    return [_passkey(row) for row in await connection.fetch(_LIST, user_id)]


_LIST_IDS = """
SELECT factors.credential_id FROM users JOIN factors USING (user_id)
WHERE users.email_canonical = $1 AND factors.kind = 'passkey' AND factors.confirm_time IS NOT NULL
ORDER BY factors.factor_id
"""


async def list_ids_of_account(connection: Connection, email_canonical: str) -> Sequence[bytes]:
    """Return the ids of the passkeys of the account with this address, active or not."""
    return [row["credential_id"] for row in await connection.fetch(_LIST_IDS, email_canonical)]


_FIND = f"""
SELECT {_COLUMNS} FROM factors
WHERE credential_id = $1 AND kind = 'passkey' AND confirm_time IS NOT NULL
"""  # noqa: S608 - made of constants


async def find(connection: Connection, credential_id: bytes) -> Passkey | None:
    """Return the passkey with this credential id, of any user."""
    row = await connection.fetchrow(_FIND, credential_id)
    return None if row is None else _passkey(row)


_FIND_ACCOUNT = """
SELECT users.email_canonical FROM factors JOIN users USING (user_id)
WHERE factors.credential_id = $1 AND factors.kind = 'passkey' AND factors.confirm_time IS NOT NULL
"""


async def find_account(connection: Connection, credential_id: bytes) -> str | None:
    """Return the canonical address of the account that the passkey with this id belongs to."""
    account: str | None = await connection.fetchval(_FIND_ACCOUNT, credential_id)
    return account


# WebAuthn Level 3, section 7.2, step 22: a counter in use only ever increases. A second call with
# the same count finds it taken.
_ADVANCE = """
UPDATE factors SET sign_count = $2, last_use_time = $3
WHERE factor_id = $1 AND (sign_count < $2 OR sign_count = 0 AND $2 = 0)
RETURNING factor_id
"""


async def advance(
    connection: Connection, factor_id: FactorId, sign_count: int, now: datetime
) -> bool:
    """Record a use of the passkey; change nothing and return False if its counter did not increase.

    A counter that stays 0 is not in use. Also return False if the passkey was removed. The caller
    has locked the user's row, as callers that remove a passkey do.
    """
    return await connection.fetchval(_ADVANCE, factor_id, sign_count, now) is not None


# As section 7.2 has it, the count of an accepted assertion is stored even if it is lower.
_RESET = """
UPDATE factors SET sign_count = $2, last_use_time = $3
WHERE factor_id = $1 AND backup_eligible
RETURNING factor_id
"""


async def reset(
    connection: Connection, factor_id: FactorId, sign_count: int, now: datetime
) -> bool:
    """Record a use of a backup-eligible passkey whose counter did not increase.

    Change nothing and return False if the passkey is bound to one device, or was removed. The
    caller has locked the user's row.
    """
    return await connection.fetchval(_RESET, factor_id, sign_count, now) is not None


_EXIST = """
SELECT EXISTS (SELECT FROM factors
    WHERE user_id = $1 AND kind = 'passkey' AND confirm_time IS NOT NULL)
"""


async def exist(connection: Connection, user_id: UserId) -> bool:
    """Return whether the user has a passkey."""
    return bool(await connection.fetchval(_EXIST, user_id))


_INSERT_LOGIN = """
INSERT INTO challenges (challenge_id, kind, passkey, sealed_account, create_time, expire_time)
VALUES ($1, 'passkey_login', $2, $3, $4, $5)
"""


async def insert_login(
    connection: Connection, challenge: LoginChallenge, now: datetime, expire_time: datetime
) -> None:
    """Store a challenge for a login."""
    await connection.execute(
        _INSERT_LOGIN,
        challenge.challenge_id,
        challenge.challenge,
        challenge.sealed_account,
        now,
        expire_time,
    )


_FIND_LOGIN = """
SELECT challenge_id, passkey, sealed_account FROM challenges
WHERE challenge_id = $1 AND kind = 'passkey_login' AND expire_time > $2
"""


async def find_login(
    connection: Connection, challenge_id: UUID, now: datetime
) -> LoginChallenge | None:
    """Return a challenge for a login, or None if it is unknown, was used or has expired."""
    row = await connection.fetchrow(_FIND_LOGIN, challenge_id, now)
    return None if row is None else _login_challenge(row)


# Does not wait for a flush, like the claim in users.py.
_CLAIM_LOGIN = """
DELETE FROM challenges
WHERE challenge_id = $1 AND kind = 'passkey_login' AND expire_time > $2
RETURNING challenge_id, passkey, sealed_account, set_config('synchronous_commit', 'off', true)
"""


async def claim_login(
    connection: Connection, challenge_id: UUID, now: datetime
) -> LoginChallenge | None:
    """Use up a challenge for a login; return None if it is unknown, was used or has expired."""
    row = await connection.fetchrow(_CLAIM_LOGIN, challenge_id, now)
    return None if row is None else _login_challenge(row)


# Replaces the previous one, as they could pile up otherwise.
_REPLACE_REGISTRATION = """
WITH replaced AS (
    DELETE FROM challenges WHERE user_id = $2 AND kind = 'passkey_registration'
)
INSERT INTO challenges
    (challenge_id, kind, user_id, passkey, conditional, create_time, expire_time)
VALUES ($1, 'passkey_registration', $2, $3, $4, $5, $6)
"""


async def replace_registration(
    connection: Connection,
    challenge_id: UUID,
    user_id: UserId,
    challenge: RegistrationChallenge,
    now: datetime,
    expire_time: datetime,
) -> None:
    """Store the challenge for the user's next passkey, in place of the previous one.

    The caller has locked the user's row.
    """
    await connection.execute(
        _REPLACE_REGISTRATION,
        challenge_id,
        user_id,
        challenge.challenge,
        challenge.conditional,
        now,
        expire_time,
    )


_CLAIM_REGISTRATION = """
DELETE FROM challenges
WHERE challenge_id = $1 AND user_id = $2 AND kind = 'passkey_registration' AND expire_time > $3
RETURNING passkey, conditional
"""


async def claim_registration(
    connection: Connection, challenge_id: UUID, user_id: UserId, now: datetime
) -> RegistrationChallenge | None:
    """Use up the user's challenge; return None if it is another user's, was used or has expired."""
    row = await connection.fetchrow(_CLAIM_REGISTRATION, challenge_id, user_id, now)
    return None if row is None else RegistrationChallenge(row["passkey"], row["conditional"])


def _login_challenge(row: asyncpg.Record) -> LoginChallenge:
    return LoginChallenge(row["challenge_id"], row["passkey"], row["sealed_account"])


def _passkey(row: asyncpg.Record) -> Passkey:
    return Passkey(
        FactorId(row["factor_id"]),
        UserId(row["user_id"]),
        row["credential_id"],
        row["public_key"],
        tuple(row["transports"] or ()),
        row["backup_eligible"],
    )
