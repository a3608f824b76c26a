"""Owns second factors, and logins that wait for one."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from authsvc.models.ids import FactorId
from authsvc.models.tokens import Tokens


class FactorKind(StrEnum):
    """The kind of a second factor."""

    TOTP = "totp"
    PASSKEY = "passkey"


@dataclass(frozen=True, slots=True)
class Factor:
    """A confirmed second factor without its secret; `last_use_time` is None until it is used."""

    factor_id: FactorId
    kind: FactorKind
    name: str
    create_time: datetime
    last_use_time: datetime | None


@dataclass(frozen=True, slots=True)
class TotpEnrollment:
    """What an authenticator app needs: the secret in Base32, and as an `otpauth:` URI."""

    factor_id: FactorId
    secret: str = field(repr=False)
    otpauth_uri: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PasskeySignals:
    """The arguments of WebAuthn's signal methods as JSON; "" if there is nothing to signal."""

    all_accepted_credentials: str = field(default="", repr=False)
    current_user_details: str = field(default="", repr=False)
    unknown_credential: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class MfaChallenge:
    """A login that still needs a second factor: any one of `methods`.

    `totp_enrollment` is set if the user has to enroll TOTP to log in. `passkey_options` is the
    WebAuthn request options as JSON, or "" if the user has no passkeys.
    """

    mfa_token: str = field(repr=False)
    methods: tuple[str, ...]
    expire_time: datetime
    totp_enrollment: TotpEnrollment | None = None
    passkey_options: str = ""


LoginOutcome: TypeAlias = Tokens | MfaChallenge
