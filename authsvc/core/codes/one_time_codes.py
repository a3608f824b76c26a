"""Owns one-time codes: random, stored as keyed hashes, with a few tries and a single use.

The tries of each client network are counted apart, so that a stranger's don't use up the owner's. A
code of 8 digits has 50 tries in all, by default: a guess succeeds at most once in two million.
"""

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
from authsvc.errors import user_not_found
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.store import one_time_codes as store
from authsvc.store.one_time_codes import CodeClaim, CodeRow, TryLimits
from authsvc.store.postgres.database import Connection

_DIGITS = 8
_NETWORK_BYTES = 8
# Without letters and digits that are easily confused: 0 and O, 1 and I.
_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
_GROUPS, _GROUP = 3, 4
# Hyphens, and what text processors replace them with.
_HYPHENS = "-\u00ad\u2010\u2011\u2012\u2013\u2014\u2212"


class Purpose(StrEnum):
    """The purpose of a code; it works for no other."""

    VERIFY_EMAIL = "verify_email"
    LOGIN = "login"
    RESET_PASSWORD = "reset_password"  # noqa: S105 - a purpose's name
    CHANGE_EMAIL = "change_email"


@dataclass(frozen=True, slots=True)
class IssuedCode:
    """A code as it is sent to the user."""

    code_id: UUID
    code: str = field(repr=False)
    expire_time: datetime


class OneTimeCodes:
    """Issues codes and redeems them, once each (ASVS 6.5.1)."""

    def __init__(self, keyring: Keyring, settings: CodeSettings, clock: Clock) -> None:
        # Newest first: codes made with an older key work until they expire.
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
        """Issue a code for an address, replacing the user's previous one with the same purpose.

        Except that login codes replace no other, so that a request leaves other requests' alone.

        If `user_id` is None or `usable` is False, it looks like any other code but never works.
        Runs in the caller's transaction, in which the user's row stays locked.

        Raises:
            NotFound: USER_NOT_FOUND: the user was deleted meanwhile.
        """
        now = self._clock.now()
        # Not a UUIDv7, which can be guessed: a login code is useful only to those who know the id
        # of its request.
        issued = IssuedCode(uuid4(), _random_code(purpose), now + self._lifetime(purpose))
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
        if not await store.replace(connection, row):
            raise user_not_found()
        return issued

    async def find_account(self, connection: Connection, purpose: Purpose, code_id: UUID) -> str:
        """Return the canonical address of a code, to which attempts are charged.

        An unknown code has an address that no account can have.
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
        """Use up the code of the attempt's account, if it is right; return its user's id.

        `email_canonical` is the address that the code was issued for, if it is not the account's
        own. Return None if the code is wrong, used, expired, replaced or had too many tries, or if
        no proof can succeed. The same statement counts the try, so the caller's transaction has to
        commit.
        """
        address = email_canonical or attempt.account
        claim = CodeClaim(
            purpose=purpose.value,
            email_canonical=address,
            user_id=attempt.subject.user_id if attempt.subject is not None else None,
            code_id=code_id,
            macs=[_mac(key, purpose, address, code) for key in self._keys],
            may_match=attempt.credential is not None,
            network=self._network(attempt),
        )
        matches = await store.claim(connection, claim, self._clock.now(), self._limits(purpose))
        return claim.user_id if matches else None

    def _limits(self, purpose: Purpose) -> TryLimits | None:
        if purpose is Purpose.RESET_PASSWORD:
            return None  # 60 bits can't be guessed; so nobody can use such a code up.
        return TryLimits(self._settings.max_attempts, self._settings.max_attempts_in_all)

    def _network(self, attempt: Attempt) -> str:
        """Return a keyed hash of the client's network, as the table holds no addresses."""
        message = f"network\0{attempt.network or ''}".encode()
        return hmac.digest(self._keys[0], message, hashlib.sha256)[:_NETWORK_BYTES].hex()

    def _lifetime(self, purpose: Purpose) -> timedelta:
        if purpose is Purpose.VERIFY_EMAIL:
            return self._settings.verification_lifetime
        return self._settings.lifetime


def _random_code(purpose: Purpose) -> str:
    """Return 8 digits or, for a reset, which works even while an account is locked, 60 bits."""
    if purpose is not Purpose.RESET_PASSWORD:
        return f"{secrets.randbelow(10**_DIGITS):0{_DIGITS}}"
    groups = ("".join(secrets.choice(_ALPHABET) for _ in range(_GROUP)) for _ in range(_GROUPS))
    return "-".join(groups)


def _normalize(code: str) -> str:
    """Return a typed code in capitals and ASCII digits, without blanks and hyphens."""
    plain = unicodedata.normalize("NFKC", code).upper()
    return "".join(char for char in plain if char not in _HYPHENS and not char.isspace())


def _mac(key: bytes, purpose: Purpose, email_canonical: str, code: str) -> bytes:
    message = "\0".join((purpose.value, email_canonical, _normalize(code))).encode()
    return hmac.digest(key, message, hashlib.sha256)
