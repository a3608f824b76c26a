"""Owns authenticator apps (TOTP, RFC 6238): their seeds and codes.

Six digits of HMAC-SHA-1, a new code every 30 seconds, one step of clock skew either way.
"""

import base64
import os

import pyotp
from pyotp.exceptions import OTPVerificationError

from authsvc.core.lib.ids import uuid7
from authsvc.core.lib.sealing import Keyring
from authsvc.models.clock import Clock
from authsvc.models.factors import TotpEnrollment
from authsvc.models.ids import FactorId, UserId
from authsvc.models.sealing import SEEDS
from authsvc.store import factors
from authsvc.store.factors import Seed
from authsvc.store.postgres.database import Connection

_SEED_BYTES = 20  # RFC 4226, section 4: 160 bits.
_SKEW_STEPS = 1
_BLANKS = str.maketrans("", "", " -")


class Totp:
    """Enrols, confirms and verifies authenticator apps, within the caller's transactions.

    The caller has locked the user's row.
    """

    def __init__(self, keyring: Keyring, issuer: str, clock: Clock) -> None:
        self._keyring = keyring
        self._issuer = issuer
        self._clock = clock

    async def enroll(
        self, connection: Connection, user_id: UserId, email: str, name: str = ""
    ) -> TotpEnrollment:
        """Create a seed, which is used once it is confirmed; it replaces an unconfirmed one."""
        now = self._clock.now()
        factor_id, secret = FactorId(uuid7(now)), os.urandom(_SEED_BYTES)
        sealed = self._keyring.seal(secret, **SEEDS.place(factor_id))
        await factors.replace_unconfirmed(connection, user_id, Seed(factor_id, sealed), name, now)
        app = _app(secret)
        uri = app.provisioning_uri(name=email, issuer_name=self._issuer)
        return TotpEnrollment(factor_id, app.secret, uri)

    async def confirm(self, connection: Connection, user_id: UserId, seed: Seed, code: str) -> bool:
        """Confirm the app if the code is right and the app is unconfirmed (RFC 6238, 5.2)."""
        step = self._step(seed, code)
        return step is not None and await factors.confirm(
            connection, seed.factor_id, user_id, self._clock.now(), step
        )

    async def verify(self, connection: Connection, user_id: UserId, code: str) -> bool:
        """Use up a code of one of the user's confirmed apps (ASVS 6.5.1, 6.5.8)."""
        for seed in await factors.list_seeds(connection, user_id):
            step = self._step(seed, code)
            if step is not None and await factors.claim_step(
                connection, seed.factor_id, step, self._clock.now()
            ):
                return True
        return False

    def _step(self, seed: Seed, code: str) -> int | None:
        """Return the time step of this code, or None if it is wrong; compare in constant time."""
        app = _app(self._keyring.open(seed.sealed, **SEEDS.place(seed.factor_id)))
        try:
            return app.verify_and_get_timecode(
                code.translate(_BLANKS), for_time=self._clock.now(), valid_window=_SKEW_STEPS
            )
        except OTPVerificationError:
            return None


def _app(secret: bytes) -> pyotp.TOTP:
    return pyotp.TOTP(base64.b32encode(secret).decode())
