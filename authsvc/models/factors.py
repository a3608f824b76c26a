"""Owns what second factors and logins that wait for one are."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from authsvc.models.ids import FactorId
from authsvc.models.tokens import Tokens


@dataclass(frozen=True, slots=True)
class TotpEnrollment:
    """What an authenticator app needs to know: the secret in Base32, and the same as an address."""

    factor_id: FactorId
    secret: str = field(repr=False)
    otpauth_uri: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class MfaChallenge:
    """A login that needs a second factor: any one of `methods`.

    `totp_enrollment` is set if the user has to enrol one to log in; `passkey_options` is what the
    user's passkeys are to sign (WebAuthn, JSON), "" if there are none.
    """

    mfa_token: str = field(repr=False)
    methods: tuple[str, ...]
    expire_time: datetime
    totp_enrollment: TotpEnrollment | None = None
    passkey_options: str = ""


LoginOutcome: TypeAlias = Tokens | MfaChallenge
