"""Owns what a browser is told about a user's passkeys, so that devices show no outdated ones.

These are the arguments of WebAuthn's signal methods (WebAuthn Level 3, section 5.1.10), as JSON.
"""

import json
from collections.abc import Iterable

from authsvc.core.lib import base64url
from authsvc.models.factors import PasskeySignals
from authsvc.models.ids import UserId
from authsvc.models.users import User


class PasskeySignalling:
    """Builds the signals about passkeys of one relying party."""

    def __init__(self, relying_party_id: str) -> None:
        self._relying_party_id = relying_party_id

    def passkeys(
        self, user: User, accepted: Iterable[bytes], *, removed: bytes | None = None
    ) -> PasskeySignals:
        """Return the signals with the ids of all the user's passkeys, and of one just removed.

        A device hides or deletes all others, so `accepted` has to be complete.
        """
        return PasskeySignals(
            self._accepted(user.user_id, accepted),
            self._details(user),
            self._unknown(removed) if removed is not None else "",
        )

    def changed_details(self, user: User) -> PasskeySignals:
        """Return the signal that the user's address or name has changed."""
        return PasskeySignals(current_user_details=self._details(user))

    def deleted_account(self, user_id: UserId) -> PasskeySignals:
        """Return the signal that no passkey of this user is accepted any longer."""
        return PasskeySignals(self._accepted(user_id, ()))

    def _accepted(self, user_id: UserId, accepted: Iterable[bytes]) -> str:
        ids = [base64url.encode(credential_id) for credential_id in accepted]
        return self._json(userId=_handle(user_id), allAcceptedCredentialIds=ids)

    def _details(self, user: User) -> str:
        return self._json(
            userId=_handle(user.user_id), name=user.email, displayName=shown_name(user)
        )

    def _unknown(self, credential_id: bytes) -> str:
        return self._json(credentialId=base64url.encode(credential_id))

    def _json(self, **members: object) -> str:
        return json.dumps({"rpId": self._relying_party_id, **members})


def shown_name(user: User) -> str:
    """Return the name that devices show for the user's passkeys."""
    return user.display_name or user.email


def _handle(user_id: UserId) -> str:
    return base64url.encode(user_id.bytes)
