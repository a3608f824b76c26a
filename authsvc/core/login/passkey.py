"""Owns the login by passkey: one proof that counts as both factors, as it verifies the user."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from authsvc.core.attempts.attempts import Attempt, Attempts, Cause, Rejected
from authsvc.core.attempts.brute_force import BruteForce
from authsvc.core.factors.passkeys import Passkeys
from authsvc.core.factors.relying_party import (
    CHALLENGE_BYTES,
    RelyingParty,
    descriptor,
    parse_assertion,
)
from authsvc.core.lib.emails import parse_email
from authsvc.core.lib.sealing import Keyring, SealError
from authsvc.core.login.completion import LoginCompletion
from authsvc.errors import credentials_invalid
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.factors import LoginOutcome
from authsvc.models.ids import UserId
from authsvc.models.sealing import ACCOUNTS
from authsvc.store import passkeys as store
from authsvc.store import users
from authsvc.store.passkeys import LoginChallenge
from authsvc.store.postgres.database import Database

# Lengths of the credential ids that authenticators create.
_ID_BYTES = (16, 20, 32, 32, 48, 64)


@dataclass(frozen=True, slots=True)
class PasskeyRequest:
    """A request to passkeys: `options` is PublicKeyCredentialRequestOptions as JSON."""

    challenge_id: UUID
    options: str = field(repr=False)


class BoundAccounts:
    """Seals the canonical address that a login is started for, and makes decoys for it."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._decoy_key = keyring.derive("passkey-decoy")[0]

    def seal(self, challenge_id: UUID, account: str) -> bytes:
        """Return the account's address, sealed for its challenge."""
        return self._keyring.seal(account.encode(), **ACCOUNTS.place(challenge_id))

    def open(self, challenge_id: UUID, sealed: bytes) -> str:
        """Return the address sealed in a challenge.

        Raises:
            Unauthenticated: CREDENTIALS_INVALID: its key has since been removed from the keyring.
        """
        try:
            return self._keyring.open(sealed, **ACCOUNTS.place(challenge_id)).decode()
        except SealError:
            raise credentials_invalid() from None

    def decoys(self, account: str) -> list[bytes]:
        """Return ids of passkeys that don't exist, always the same for one address.

        They match real ones in number and length (WebAuthn Level 3, section 14.6.2).
        """
        seed = _hash(self._decoy_key, account)
        count = 2 if seed[0] < 64 else 1
        return [
            hashlib.shake_256(seed + bytes([index])).digest(_ID_BYTES[seed[index + 1] % 6])
            for index in range(count)
        ]


class PasskeyLoginStart:
    """Starts logins by passkey."""

    def __init__(
        self,
        *,
        database: Database,
        relying_party: RelyingParty,
        accounts: BoundAccounts,
        brute_force: BruteForce,
        clock: Clock,
    ) -> None:
        self._database = database
        self._relying_party = relying_party
        self._accounts = accounts
        self._brute_force = brute_force
        self._clock = clock

    async def begin(self, email: str, client: ClientContext) -> PasskeyRequest:
        """Return the request for the passkeys of the account with this address; "" means any.

        An address without an account or without passkeys is answered like any other: its passkeys
        are made up, and nobody can sign with them.

        Raises:
            FieldInvalid: EMAIL_INVALID.
            TooManyAttempts: Too many logins by passkey were started from the client's IP address.
        """
        account = parse_email(email).canonical if email else None
        await self._brute_force.charge_passkey_login(client)
        now = self._clock.now()
        expire_time = now + self._relying_party.challenge_lifetime
        challenge_id = uuid4()
        challenge = LoginChallenge(
            challenge_id,
            secrets.token_bytes(CHALLENGE_BYTES),
            self._accounts.seal(challenge_id, account) if account is not None else None,
        )
        ids: list[bytes] = []
        async with self._database.connection() as connection:
            if account is not None:
                found = await store.list_ids_of_account(connection, account)
                ids = [*found] or self._accounts.decoys(account)
            await store.insert_login(connection, challenge, now, expire_time)
        # Without transports, as a made-up passkey has none.
        options = self._relying_party.request_options(
            challenge.challenge, [descriptor(one) for one in ids], require_verification=True
        )
        return PasskeyRequest(challenge.challenge_id, options)


class PasskeyLogin:
    """Completes logins by passkey."""

    def __init__(
        self,
        *,
        database: Database,
        passkeys: Passkeys,
        accounts: BoundAccounts,
        attempts: Attempts,
        completion: LoginCompletion,
        clock: Clock,
    ) -> None:
        self._database = database
        self._passkeys = passkeys
        self._accounts = accounts
        self._attempts = attempts
        self._completion = completion
        self._clock = clock

    async def log_in(
        self, call: Call, challenge_id: UUID, assertion_json: str, client: ClientContext
    ) -> LoginOutcome:
        """Log in the user whose passkey signed the challenge, and use the challenge up.

        Raises:
            Unauthenticated: CREDENTIALS_INVALID, whatever is wrong, including the challenge.
            FailedPrecondition: EMAIL_NOT_VERIFIED.
            TooManyAttempts: Too many proofs from the client's network failed before.
        """
        account = await self._account(assertion_json, challenge_id)
        async with self._attempts.evaluate(call, account, client, guessable=False) as attempt:
            async with self._database.connection() as connection:
                challenge = await store.claim_login(connection, challenge_id, self._clock.now())
            outcome = await self._evaluate(attempt, assertion_json, challenge)
            if outcome is None:
                raise Rejected(attempt.cause(Cause.PASSKEY))
            return outcome

    async def _account(self, assertion_json: str, challenge_id: UUID) -> str:
        """Return the account that the attempt is at.

        It is the address that the login was started for, whether or not an account has it;
        otherwise the address of the actual signer. If nobody signed, it is the passkey named in the
        assertion, which no account has for its address.
        """
        assertion = parse_assertion(assertion_json)
        account: str | None = None
        async with self._database.connection() as connection:
            challenge = await store.find_login(connection, challenge_id, self._clock.now())
            if challenge is not None and challenge.sealed_account is not None:
                return self._accounts.open(challenge_id, challenge.sealed_account)
            if assertion is not None:
                expected = (
                    challenge.challenge if challenge else secrets.token_bytes(CHALLENGE_BYTES)
                )
                account = await self._passkeys.find_signer(connection, assertion, expected)
        credential_id = assertion.raw_id if assertion is not None else challenge_id.bytes
        return account or f"passkey {hashlib.sha256(credential_id).hexdigest()}"

    async def _evaluate(
        self, attempt: Attempt, assertion_json: str, challenge: LoginChallenge | None
    ) -> LoginOutcome | None:
        # A missing challenge is replaced by a random one that nobody knows.
        expected = challenge.challenge if challenge else secrets.token_bytes(CHALLENGE_BYTES)
        is_bound = challenge is not None and challenge.sealed_account is not None
        async with self._database.transaction(attempt.account) as connection:
            proof = await self._passkeys.verify(
                connection,
                attempt.call,
                attempt.client,
                assertion_json,
                expected,
                attempt.subject.user_id if is_bound and attempt.subject is not None else None,
                require_verification=True,
            )
            if proof is None or not _is_active(attempt, proof.user_id):
                return None
            user = await users.confirm(connection, proof.user_id, self._clock.now())
            if user is None:
                return None
            return await self._completion.complete(
                connection, attempt, user, proof.methods, multi_factor=True
            )


def _is_active(attempt: Attempt, user_id: UserId) -> bool:
    """Return whether the attempt is on this user's account, and the account can be logged in to."""
    return attempt.credential is not None and attempt.credential.user_id == user_id


def _hash(key: bytes, account: str) -> bytes:
    return hmac.digest(key, account.encode(), hashlib.sha256)
