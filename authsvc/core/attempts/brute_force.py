"""Owns the limits on guessing and on creating: what each attempt is charged to."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import islice

from authsvc.config import BruteForceSettings
from authsvc.core.attempts.refunds import Refunds
from authsvc.core.lib.decisions import Decisions
from authsvc.core.lib.sealing import Keyring
from authsvc.core.lib.slices import Slices
from authsvc.core.limits.limiter import Check, RateLimiter, policies_from
from authsvc.core.limits.networks import client_network
from authsvc.errors import TooManyAttempts
from authsvc.models.calls import ClientContext
from authsvc.models.ids import UserId
from authsvc.models.limits import Charge, Policy
from authsvc.store.postgres.database import Database

_ACCOUNT = "authsvc.login.account"
_ACCOUNT_AND_IP = "authsvc.login.account_and_ip"
_ACCOUNT_AND_DEVICE = "authsvc.login.account_and_device"
_IP = "authsvc.login.ip"
_PROOF_IP = "authsvc.login.proof_ip"
_REGISTRATION_IP = "authsvc.register.ip"
_REGISTRATION_ADDRESS = "authsvc.register.address"
_PASSKEY_LOGIN_IP = "authsvc.passkey_login.ip"
_OAUTH_IP = "authsvc.oauth.ip"
_API_KEY_USER = "authsvc.api_key.user"
_SESSION_KEY_USER = "authsvc.session_key.user"
_TURN_USER = "authsvc.turn.user"
# What a client has used up itself, whatever others do.
_OF_NETWORK = {
    _ACCOUNT_AND_IP, _IP, _PROOF_IP, _REGISTRATION_IP, _PASSKEY_LOGIN_IP, _OAUTH_IP
}  # fmt: skip
_NOBODY = ClientContext()


@dataclass(frozen=True, slots=True)
class ChargeReceipt:
    """The charges of one attempt."""

    _limiter: RateLimiter
    _charges: Sequence[Charge]
    _refunds: Refunds

    async def refund(self) -> None:
        """Refund all charges, since the attempt is not to count.

        If that fails, it is repeated in the background, which is no reason to fail the call.
        """
        await self._refunds.make(self._refund)

    def refund_later(self) -> None:
        """Refund all charges in the background."""
        self._refunds.make_later(self._refund)

    async def _refund(self) -> None:
        if self._charges:
            await self._limiter.refund_all(self._charges)


class BruteForce:
    """Charges each attempt before it is evaluated, so that parallel guesses can't exceed a limit.

    The limits are shared by all replicas. Their keys are keyed hashes, so the table of limits holds
    no addresses, and they are the same whether or not an account exists.
    """

    def __init__(self, database: Database, settings: BruteForceSettings, keyring: Keyring) -> None:
        self._settings = settings
        # This process caches no rejections, as another replica may have refunded the charge.
        self._limiter = RateLimiter(
            database=database, policies=_policies(settings), rejected_cache_size=0
        )
        self._key = keyring.derive("brute-force")[0]
        self.refunds = Refunds()

    def max_failures(self, *, known_device: bool) -> int:
        """Return how many logins may fail in a row.

        Known devices share one half of the limit and everybody else the other (ASVS 6.1.1), for the
        reasons in `store.failed_logins`.
        """
        limit = self._settings.max_consecutive_failures
        return limit // 2 if known_device else limit - limit // 2

    def replace_settings(self, settings: BruteForceSettings) -> None:
        """Use these limits from the next attempt on."""
        self._settings = settings
        self._limiter.replace_policies(_policies(settings))

    def network(self, client: ClientContext) -> str | None:
        """Return the network that the client is counted under, or None without an ip."""
        return client_network(client.ip, self._settings)

    async def charge_guess(
        self, account: str, client: ClientContext, known_device: bytes | None
    ) -> ChargeReceipt:
        """Charge a guess to the account (its canonical address), to the client's ip, and to both.

        A known device of the account is charged instead of the account, so that strangers can't
        lock it out (ASVS 6.1.1). Without an ip, the limits by ip don't apply.

        Raises:
            TooManyAttempts: A limit is reached; nothing was charged.
        """
        network = self.network(client)
        if known_device is not None:
            charges = [self._charge(_ACCOUNT_AND_DEVICE, account, known_device.hex())]
        else:
            charges = [self._charge(_ACCOUNT, account)]
            if network is not None:
                charges.append(self._charge(_ACCOUNT_AND_IP, account, network))
        if network is not None:
            charges.append(self._charge(_IP, network))
        return await self._take(charges, "login", client)

    async def charge_proof(self, client: ClientContext) -> ChargeReceipt:
        """Charge a proof that can't be guessed to the client's ip only, if known.

        What it costs to evaluate is limited, but nobody can use up what an account's user needs.

        Raises:
            TooManyAttempts: The limit is reached; nothing was charged.
        """
        network = self.network(client)
        charges = [] if network is None else [self._charge(_PROOF_IP, network)]
        return await self._take(charges, "login", client)

    async def forgive(self, account: str, client: ClientContext) -> None:
        """Forget the guesses at an account that are charged to it, and to it and the client's ip.

        Called when its user has proved who they are, but has yet to log in.
        """
        network = self.network(client)
        charges = [self._charge(_ACCOUNT, account)]
        if network is not None:
            charges.append(self._charge(_ACCOUNT_AND_IP, account, network))
        for charge in charges:
            await self.refunds.make(partial(self._limiter.reset, charge.policy, charge.key))

    async def locks(
        self, accounts: Sequence[tuple[str, Sequence[bytes]]], slices: Slices
    ) -> list[tuple[float | None, float | None]]:
        """Return for how many seconds each account is locked by its limits: two times, or None.

        The first is for unknown devices, whatever their network, the second for the known ones, the
        longest of them. An account is given by its canonical address and its known devices.
        """
        checks, sizes = [], []
        for account, devices in accounts:
            charges = [self._charge(_ACCOUNT, account)]
            charges += [self._charge(_ACCOUNT_AND_DEVICE, account, key.hex()) for key in devices]
            checks += [Check([charge], dry_run=True) for charge in charges]
            sizes.append(len(devices))
        waits = iter(
            None if result.allowed else result.verdicts[0].retry_after
            for result in await self._limiter.check_many(checks, slices)
        )
        return [
            (next(waits), max((wait for wait in islice(waits, size) if wait), default=None))
            for size in sizes
        ]

    async def unlock(
        self, account: str, devices: Sequence[bytes], clients: Sequence[ClientContext]
    ) -> None:
        """Forget the guesses at an account: those charged to it, to its devices, and to clients.

        What is charged to an ip alone stays, as it may be guessing at other accounts.
        """
        charges = {self._charge(_ACCOUNT, account)}
        charges |= {
            self._charge(_ACCOUNT_AND_DEVICE, account, key.hex()) for key in (*devices, b"")
        }
        networks = {network for client in clients if (network := self.network(client)) is not None}
        charges |= {self._charge(_ACCOUNT_AND_IP, account, network) for network in networks}
        for charge in sorted(charges):
            await self._limiter.reset(charge.policy, charge.key)

    @property
    def decisions(self) -> Decisions:
        """The counts of what was decided on attempts."""
        return self._limiter.decisions

    @property
    def longest_window(self) -> timedelta:
        """The longest time for which a guess at an account from a network counts."""
        return self._settings.per_account_and_ip.window

    async def charge_registration(self, client: ClientContext) -> None:
        """Charge a registration to the client's ip, if known; it is never refunded.

        Raises:
            TooManyAttempts: The limit is reached.
        """
        await self._charge_ip(_REGISTRATION_IP, client, "registration")

    async def charge_registered_address(self, account: str) -> None:
        """Charge a registration to its canonical address, which gets a code; it is never refunded.

        Otherwise creating and deleting an account over and over would fill somebody's mailbox.

        Raises:
            TooManyAttempts: The limit is reached.
        """
        await self._take([self._charge(_REGISTRATION_ADDRESS, account)], "registration")

    async def charge_passkey_login(self, client: ClientContext) -> None:
        """Charge the start of a login by passkey, like `charge_registration`.

        Raises:
            TooManyAttempts: The limit is reached.
        """
        await self._charge_ip(_PASSKEY_LOGIN_IP, client, "login")

    async def charge_oauth(self, client: ClientContext) -> None:
        """Charge the start of a login at another provider, like `charge_registration`.

        Raises:
            TooManyAttempts: The limit is reached.
        """
        await self._charge_ip(_OAUTH_IP, client, "login")

    async def charge_api_key(self, user_id: UserId) -> ChargeReceipt:
        """Charge the creation of an API key to its user.

        Otherwise keys created and revoked over and over would fill the table: revoked ones are kept
        for a while.

        Raises:
            TooManyAttempts: The limit is reached.
        """
        return await self._take([self._charge(_API_KEY_USER, str(user_id))], "api_key")

    async def charge_session_key(self, user_id: UserId) -> ChargeReceipt:
        """Charge the attestation of a key to its user, which costs a signature and an event.

        Raises:
            TooManyAttempts: The limit is reached.
        """
        return await self._take([self._charge(_SESSION_KEY_USER, str(user_id))], "session_key")

    async def charge_turn(self, user_id: UserId) -> ChargeReceipt:
        """Charge credentials for TURN servers to their user, like `charge_session_key`.

        Raises:
            TooManyAttempts: The limit is reached.
        """
        return await self._take([self._charge(_TURN_USER, str(user_id))], "turn")

    async def _charge_ip(self, policy: str, client: ClientContext, subject: str) -> None:
        network = self.network(client)
        if network is not None:
            await self._take([self._charge(policy, network)], subject, client)

    async def _take(
        self, charges: Sequence[Charge], subject: str, client: ClientContext = _NOBODY
    ) -> ChargeReceipt:
        if not charges:
            return ChargeReceipt(self._limiter, charges, self.refunds)
        result = await self._limiter.check(charges)
        if not result.allowed:
            waits = [verdict.retry_after or 0.0 for verdict in result.verdicts]
            is_own = any(
                verdict.policy in _OF_NETWORK and not verdict.allowed for verdict in result.verdicts
            )
            raise TooManyAttempts(max(waits), subject, client.ip if is_own else None)
        return ChargeReceipt(self._limiter, charges, self.refunds)

    def _charge(self, policy: str, *parts: str) -> Charge:
        return keyed_charge(self._key, policy, *parts)


def keyed_charge(key: bytes, policy: str, *parts: str) -> Charge:
    """Return a charge whose key is a keyed hash of `parts`."""
    message = "\0".join((policy, *parts)).encode()
    return Charge(policy, hmac.digest(key, message, hashlib.sha256).hex())


def _policies(settings: BruteForceSettings) -> dict[str, Policy]:
    return policies_from(
        {
            _ACCOUNT: settings.per_account,
            _ACCOUNT_AND_IP: settings.per_account_and_ip,
            _ACCOUNT_AND_DEVICE: settings.per_known_device,
            _IP: settings.per_ip,
            _PROOF_IP: settings.proofs_per_ip,
            _REGISTRATION_IP: settings.registrations_per_ip,
            _REGISTRATION_ADDRESS: settings.registrations_per_address,
            _PASSKEY_LOGIN_IP: settings.passkey_logins_per_ip,
            _OAUTH_IP: settings.oauth_logins_per_ip,
            _API_KEY_USER: settings.api_keys_per_user,
            _SESSION_KEY_USER: settings.session_keys_per_user,
            _TURN_USER: settings.turn_credentials_per_user,
        }
    )
