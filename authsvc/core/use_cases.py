"""Owns the index of all use cases, one field each; handlers, commands and jobs take it."""

from dataclasses import dataclass

from authsvc.core.accounts.accounts import Accounts
from authsvc.core.accounts.administration import UserAdministration
from authsvc.core.accounts.deletion import AccountDeletion
from authsvc.core.accounts.email_verification import EmailVerification
from authsvc.core.accounts.impersonation import Impersonation
from authsvc.core.accounts.listing import AccountListing
from authsvc.core.accounts.own_data import AccountData
from authsvc.core.accounts.password_change import PasswordChange
from authsvc.core.accounts.password_reset import PasswordReset
from authsvc.core.api_keys.keys import ApiKeys
from authsvc.core.api_keys.validation import ApiKeyValidation
from authsvc.core.attempts.freezes import LoginFreezes
from authsvc.core.audit.listing import AuditListing
from authsvc.core.audit.watching import AuditWatch
from authsvc.core.codes.email_change import EmailChange
from authsvc.core.codes.requests import CodeRequests
from authsvc.core.factors.own_factors import Factors
from authsvc.core.factors.passkey_registration import PasskeyRegistration, PasskeyRegistrationStart
from authsvc.core.factors.signals import PasskeySignalling
from authsvc.core.factors.totp_enrollment import TotpEnrollments
from authsvc.core.federation.authorization import OAuthStart
from authsvc.core.federation.identities import Identities
from authsvc.core.incidents.detections import Detections
from authsvc.core.incidents.evidence import EvidenceExport
from authsvc.core.incidents.steps import IncidentSteps
from authsvc.core.lib.slices import Slices
from authsvc.core.limits.blocking import IpBlocking
from authsvc.core.limits.limiter import RateLimiter
from authsvc.core.limits.policies import Policies
from authsvc.core.limits.screening import Screening
from authsvc.core.login.code import CodeLogin
from authsvc.core.login.federated import OAuthLogin
from authsvc.core.login.logins import Logins
from authsvc.core.login.passkey import PasskeyLogin, PasskeyLoginStart
from authsvc.core.login.password import PasswordLogin
from authsvc.core.login.second_factor import MfaVerification
from authsvc.core.messages.stored_messages import StoredMessages
from authsvc.core.retention.cleanup import Retention
from authsvc.core.retention.unverified_accounts import UnverifiedAccounts
from authsvc.core.revocations.watching import RevocationWatch
from authsvc.core.roles.role_definitions import RoleDefinitions
from authsvc.core.secrets_at_rest.key_ages import KeyAges
from authsvc.core.secrets_at_rest.key_usage import KeyUsage
from authsvc.core.secrets_at_rest.resealing import Resealing
from authsvc.core.session_keys.keys import SessionKeys
from authsvc.core.session_keys.turn import TurnCredentials
from authsvc.core.sessions.bulk_ending import BulkSessionEnding
from authsvc.core.sessions.ending import SessionEnding
from authsvc.core.sessions.listing import SessionListing
from authsvc.core.sessions.opening import SessionOpening
from authsvc.core.sessions.refresh import SessionRefresh
from authsvc.core.sessions.token_issuing import SessionCookies
from authsvc.core.sessions.validation import SessionValidation
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.core.tokens.service_tokens import ServiceTokens
from authsvc.core.tokens.validation import TokenValidation
from authsvc.core.user_transfer.exporting import UserExport
from authsvc.core.user_transfer.importing import UserImport


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCases:
    """Everything that the service does for its callers, its operators and itself.

    Each field is named after its class. `slices` is for the conversion of large batches.
    """

    # Logins
    password_login: PasswordLogin
    code_login: CodeLogin
    passkey_login_start: PasskeyLoginStart
    passkey_login: PasskeyLogin
    oauth_start: OAuthStart
    oauth_login: OAuthLogin
    mfa_verification: MfaVerification
    login_freezes: LoginFreezes
    logins: Logins

    # Sessions and tokens
    session_opening: SessionOpening
    session_validation: SessionValidation
    session_refresh: SessionRefresh
    session_ending: SessionEnding
    session_listing: SessionListing
    session_cookies: SessionCookies
    bulk_session_ending: BulkSessionEnding
    impersonation: Impersonation
    revocation_watch: RevocationWatch
    session_keys: SessionKeys
    turn_credentials: TurnCredentials
    token_validation: TokenValidation
    slices: Slices
    service_tokens: ServiceTokens
    signing_keys: SigningKeys

    # Accounts
    accounts: Accounts
    account_data: AccountData
    account_deletion: AccountDeletion
    password_change: PasswordChange
    password_reset: PasswordReset
    user_administration: UserAdministration

    # One-time codes
    code_requests: CodeRequests
    email_verification: EmailVerification
    email_change: EmailChange

    # Second factors and identities
    factors: Factors
    totp_enrollments: TotpEnrollments
    passkey_registration_start: PasskeyRegistrationStart
    passkey_registration: PasskeyRegistration
    passkey_signalling: PasskeySignalling
    identities: Identities

    # API keys and limits
    api_keys: ApiKeys
    api_key_validation: ApiKeyValidation
    rate_limiter: RateLimiter
    screening: Screening
    ip_blocking: IpBlocking
    policies: Policies
    role_definitions: RoleDefinitions

    # Operation
    account_listing: AccountListing
    audit_listing: AuditListing
    audit_watch: AuditWatch
    stored_messages: StoredMessages
    user_import: UserImport
    user_export: UserExport
    retention: Retention
    unverified_accounts: UnverifiedAccounts
    detections: Detections
    incident_steps: IncidentSteps
    evidence_export: EvidenceExport
    resealing: Resealing
    key_usage: KeyUsage
    key_ages: KeyAges
