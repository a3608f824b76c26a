"""Owns what the handlers of the large services work with: one field for each use case."""

from dataclasses import dataclass

from authsvc.core.account_data import AccountData
from authsvc.core.account_deletion import AccountDeletion
from authsvc.core.accounts import Accounts
from authsvc.core.api_key_validation import ApiKeyValidation
from authsvc.core.api_keys import ApiKeys
from authsvc.core.code_login import CodeLogin
from authsvc.core.code_requests import CodeRequests
from authsvc.core.email_change import EmailChange
from authsvc.core.factors import Factors
from authsvc.core.identities import Identities
from authsvc.core.login import PasswordLogin
from authsvc.core.mfa_verification import MfaVerification
from authsvc.core.oauth import OAuthStart
from authsvc.core.oauth_login import OAuthLogin
from authsvc.core.passkey_login import BeginPasskeyLogin, LoginWithPasskey
from authsvc.core.passkey_registration import (
    BeginPasskeyRegistration,
    FinishPasskeyRegistration,
)
from authsvc.core.password_change import PasswordChange
from authsvc.core.recovery import PasswordRecovery
from authsvc.core.service_tokens import ServiceTokens
from authsvc.core.sessions import Sessions
from authsvc.core.signing_keys import SigningKeys
from authsvc.core.tokens import TokenValidation
from authsvc.core.totp_enrollments import TotpEnrollments
from authsvc.core.verification import EmailVerification


@dataclass(frozen=True, slots=True)
class PasskeyUseCases:
    """What both services do with passkeys."""

    begin_login: BeginPasskeyLogin
    login: LoginWithPasskey
    begin_registration: BeginPasskeyRegistration
    finish_registration: FinishPasskeyRegistration


@dataclass(frozen=True, slots=True)
class FactorUseCases:
    """What both services do with second factors."""

    verification: MfaVerification
    own: Factors
    totp: TotpEnrollments


@dataclass(frozen=True, slots=True)
class CodeUseCases:
    """What AuthService does with one-time codes."""

    requests: CodeRequests
    verification: EmailVerification
    login: CodeLogin
    recovery: PasswordRecovery


@dataclass(frozen=True, slots=True)
class OAuthUseCases:
    """What both services do with identities at other providers."""

    start: OAuthStart
    login: OAuthLogin
    identities: Identities


@dataclass(frozen=True, slots=True)
class AuthUseCases:
    """What AuthService does."""

    login: PasswordLogin
    accounts: Accounts
    sessions: Sessions
    tokens: TokenValidation
    service_tokens: ServiceTokens
    api_keys: ApiKeyValidation
    keys: SigningKeys
    codes: CodeUseCases
    factors: FactorUseCases
    oauth: OAuthUseCases
    passkeys: PasskeyUseCases


@dataclass(frozen=True, slots=True)
class AccountUseCases:
    """What AccountService does."""

    accounts: Accounts
    api_keys: ApiKeys
    email_change: EmailChange
    factors: FactorUseCases
    oauth: OAuthUseCases
    passkeys: PasskeyUseCases
    password_change: PasswordChange
    account_data: AccountData
    account_deletion: AccountDeletion
