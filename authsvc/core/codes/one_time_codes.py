"""Owns one-time codes: made at random, stored as keyed hashes, tried a few times, used once."""

import hashlib
import hmac
import secrets
import unicodedata
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID, uuid4

from authsvc.config import CodeSettings
from authsvc.core.attempts.attempts import Attempt
from authsvc.core.lib.sealing import Keyring
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.store import one_time_codes as store
from authsvc.store.one_time_codes import CodeClaim, CodeRow
from authsvc.store.postgres.database import Connection

_DIGITS = 8
# Without the letters and digits that are taken for one another: 0 and O, 1 and I.
_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
_GROUPS, _GROUP = 3, 4
# What text processors make of a hyphen.
_HYPHENS = "-\u00ad\u2010\u2011\u2012\u2013\u2014\u2212"


class Purpose(StrEnum):
    """What a code is for; it works for nothing else."""

    VERIFY_EMAIL = "verify_email"
    LOGIN = "login"
    RESET_PASSWORD = "reset_password"  # noqa: S105 - a purpose's name
    CHANGE_EMAIL = "change_email"


@dataclass(frozen=True, slots=True)
class IssuedCode:
    """A code as it goes to the user."""

    code_id: UUID
    code: str = field(repr=False)
    expire_time: datetime


class OneTimeCodes:
    """Issues codes and takes them back, once each (ASVS 6.5.1)."""

    def __init__(self, keyring: Keyring, settings: CodeSettings, clock: Clock) -> None:
        # Newest first: codes made under an older key work until they expire.
        self._keys = keyring.derive("one-time-code")
        self._settings = settings
        self._clock = clock

    async def issue(
        self,
        connection: Connection,
        purpose: Purpose,
        email_canonical: str,
        user_id: UserId | None,
        *,
        usable: bool = True,
    ) -> IssuedCode:
        """Make a code for an address in place of the user's one before of the same purpose.

        With the `user_id` None, or not `usable`, it looks like any other and never works. Within
        the caller's transaction.
        """
        now = self._clock.now()
        # Not a UUIDv7, which can be guessed: a code to log in with is of use to those only who
        # know the request that it was made for.
        issued = IssuedCode(uuid4(), _make(purpose), now + self._lifetime(purpose))
        mac = _mac(self._keys[0], purpose, email_canonical, issued.code)
        row = CodeRow(
            code_id=issued.code_id,
            purpose=purpose.value,
            email_canonical=email_canonical,
            user_id=user_id,
            mac=mac if usable and user_id is not None else secrets.token_bytes(len(mac)),
            create_time=now,
            expire_time=issued.expire_time,
        )
        await store.replace(connection, row)
        return issued

    async def find_account(self, connection: Connection, purpose: Purpose, code_id: UUID) -> str:
        """Return the canonical address that a code was made for, to charge attempts to.

        A code that doesn't exist has one that nobody can have.
        """
        address = await store.find_address(connection, code_id, purpose.value)
        return address or f"code {code_id}"

    async def claim(
        self,
        connection: Connection,
        attempt: Attempt,
        purpose: Purpose,
        code: str,
        *,
        email_canonical: str = "",
        code_id: UUID | None = None,
    ) -> UserId | None:
        """Use up the code of the attempt's account, if it is right; return whose it is.

        `email_canonical` is the address that the code was made for, if not the account's own. None:
        the code is wrong, used, expired, replaced or had too many tries, or no proof can help. The
        try is counted by the same statement, which the caller's transaction has to commit.
        """
        address = email_canonical or attempt.account
        claim = CodeClaim(
            purpose=purpose.value,
            email_canonical=address,
            user_id=attempt.subject.user_id if attempt.subject is not None else None,
            code_id=code_id,
            macs=[_mac(key, purpose, address, code) for key in self._keys],
            may_match=attempt.credential is not None,
        )
        matches = await store.claim(
            connection, claim, self._clock.now(), self._settings.max_attempts
        )
        return claim.user_id if matches else None

    def _lifetime(self, purpose: Purpose) -> timedelta:
        if purpose is Purpose.VERIFY_EMAIL:
            return self._settings.verification_lifetime
        return self._settings.lifetime


def _make(purpose: Purpose) -> str:
    """Return 8 digits; for a reset, which also works while an account is locked, 60 bits."""
    if purpose is not Purpose.RESET_PASSWORD:
        return f"{secrets.randbelow(10**_DIGITS):0{_DIGITS}}"
    groups = ("".join(secrets.choice(_ALPHABET) for _ in range(_GROUP)) for _ in range(_GROUPS))
    return "-".join(groups)


def _normalize(code: str) -> str:
    """Return what was typed in capitals and plain digits, without blanks and hyphens."""
    plain = unicodedata.normalize("NFKC", code).upper()
    return "".join(char for char in plain if char not in _HYPHENS and not char.isspace())


def _mac(key: bytes, purpose: Purpose, email_canonical: str, code: str) -> bytes:
    message = "\0".join((purpose.value, email_canonical, _normalize(code))).encode()
    return hmac.digest(key, message, hashlib.sha256)
