"""Owns what the handlers of the large services work with: one field for each use case."""

from dataclasses import dataclass

from authsvc.core.accounts.accounts import Accounts
from authsvc.core.accounts.deletion import AccountDeletion
from authsvc.core.accounts.own_data import AccountData
from authsvc.core.accounts.password_change import PasswordChange
from authsvc.core.accounts.password_reset import PasswordRecovery
from authsvc.core.api_keys.keys import ApiKeys
from authsvc.core.api_keys.validation import ApiKeyValidation
from authsvc.core.codes.email_change import EmailChange
from authsvc.core.codes.email_verification import EmailVerification
from authsvc.core.codes.requests import CodeRequests
from authsvc.core.factors.own_factors import Factors
from authsvc.core.factors.passkey_registration import (
    BeginPasskeyRegistration,
    FinishPasskeyRegistration,
)
from authsvc.core.factors.totp_enrollment import TotpEnrollments
from authsvc.core.federation.authorization import OAuthStart
from authsvc.core.federation.identities import Identities
from authsvc.core.login.code import CodeLogin
from authsvc.core.login.federated import OAuthLogin
from authsvc.core.login.passkey import BeginPasskeyLogin, LoginWithPasskey
from authsvc.core.login.password import PasswordLogin
from authsvc.core.login.second_factor import MfaVerification
from authsvc.core.sessions.sessions import Sessions
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.core.tokens.service_tokens import ServiceTokens
from authsvc.core.tokens.validation import TokenValidation


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
