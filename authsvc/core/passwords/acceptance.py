"""Owns the acceptance of new passwords: every rule that a password has to meet to be set."""

from functools import partial

from authsvc.core.passwords.breached import BreachedPasswords
from authsvc.core.passwords.hashing import PasswordHasher
from authsvc.core.passwords.policy import PasswordPolicy


class PasswordAcceptance:
    """Checks new passwords by the policy and, if there is a service to ask, among breached ones.

    Every use case that sets a password uses this, except imports, which have no passwords.
    """

    def __init__(
        self, policy: PasswordPolicy, hasher: PasswordHasher, breached: BreachedPasswords | None
    ) -> None:
        self._policy = policy
        self._hasher = hasher
        self._breached = breached

    async def check(
        self, password: str, *, field: str = "password", email: str, display_name: str = ""
    ) -> None:
        """Check that `password` may be set by the user with this e-mail address and name.

        May send a request to another server, so the caller's attempt has to be charged before.

        Raises:
            FieldInvalid: PASSWORD_WEAK, or the password is malformed.
            Overloaded: Too many passwords are waiting.
            ProviderUnavailable: Whether it was breached can't be found out, and the settings refuse
                it then.
        """
        await self._hasher.run(
            partial(
                self._policy.check, password, field=field, email=email, display_name=display_name
            )
        )
        # Only then, so that no request is sent for a password that is refused anyway.
        if self._breached is not None:
            await self._breached.check(password, field)
