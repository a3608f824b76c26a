"""Owns pending logins at external providers: their stored state, which can be used once.

A state has 256 random bits, of which only the SHA-256 is stored. The PKCE verifier (RFC 7636) and
the nonce are sealed, so that reading the table does not reveal them.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import timedelta

from authsvc.core.lib import base64url
from authsvc.core.lib.sealing import Keyring, SealError
from authsvc.errors import bearer_invalid, state_invalid
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId
from authsvc.models.sealing import VERIFIERS
from authsvc.store import oauth_states as store
from authsvc.store.postgres.database import Database

_BYTES = 32


@dataclass(frozen=True, slots=True)
class PendingLogin:
    """A pending login; `link_session_id` is the session to link from, None for a plain login."""

    state: str = field(repr=False)
    provider: str
    redirect_uri: str
    verifier: str = field(repr=False)
    nonce: str = field(repr=False)
    link_session_id: SessionId | None = None

    @classmethod
    def new(
        cls, provider: str, redirect_uri: str, link_session_id: SessionId | None
    ) -> "PendingLogin":
        """Return a pending login with new secrets."""
        state, verifier, nonce = (secrets.token_urlsafe(_BYTES) for _ in range(3))
        return cls(state, provider, redirect_uri, verifier, nonce, link_session_id)

    @property
    def code_challenge(self) -> str:
        """The S256 challenge derived from the verifier (RFC 7636, section 4.2)."""
        return base64url.encode(hashlib.sha256(self.verifier.encode()).digest())


class OAuthStates:
    """Stores pending logins until they are completed, for at most `lifetime`."""

    def __init__(
        self, *, database: Database, keyring: Keyring, lifetime: timedelta, clock: Clock
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._lifetime = lifetime
        self._clock = clock

    async def keep(self, login: PendingLogin) -> None:
        """Store a pending login.

        Raises:
            Unauthenticated: BEARER_INVALID: the session to link from has ended.
        """
        state_hash, now = _digest(login.state), self._clock.now()
        secret = f"{login.verifier} {login.nonce}".encode()
        row = store.StateRow(
            state_hash,
            login.provider,
            login.redirect_uri,
            self._keyring.seal(secret, **VERIFIERS.place(state_hash)),
            login.link_session_id,
        )
        async with self._database.connection() as connection:
            if not await store.insert(connection, row, now, now + self._lifetime):
                raise bearer_invalid()

    async def claim(self, state: str) -> PendingLogin:
        """Return a pending login and remove it.

        Raises:
            FailedPrecondition: STATE_INVALID: the state is unknown, was used or has expired.
        """
        state_hash = _digest(state)
        async with self._database.connection() as connection:
            row = await store.claim(connection, state_hash, self._clock.now())
        if row is None:
            raise state_invalid()
        try:
            secret = self._keyring.open(row.sealed_verifier, **VERIFIERS.place(state_hash))
        except SealError:
            # The key that sealed it has been removed from the keyring.
            raise state_invalid() from None
        verifier, nonce = secret.decode().split(" ")
        return PendingLogin(
            state, row.provider, row.redirect_uri, verifier, nonce, row.link_session_id
        )


def _digest(state: str) -> bytes:
    return hashlib.sha256(state.encode()).digest()
