"""Owns the construction of the use cases for accounts, factors and API keys."""

from functools import cached_property

from authsvc.app.build_logins import LoginBuild
from authsvc.core.accounts.accounts import Accounts
from authsvc.core.accounts.administration import UserAdministration
from authsvc.core.accounts.deletion import AccountDeletion
from authsvc.core.accounts.email_verification import EmailVerification
from authsvc.core.accounts.impersonation import Impersonation
from authsvc.core.accounts.listing import AccountListing
from authsvc.core.accounts.owner_proofs import OwnerProofs
from authsvc.core.accounts.password_change import PasswordChange
from authsvc.core.accounts.password_reset import PasswordReset
from authsvc.core.accounts.registration_tokens import RegistrationTokens
from authsvc.core.api_keys.keys import ApiKeys
from authsvc.core.audit.request_receipts import RequestReceipts
from authsvc.core.codes.email_change import EmailChange
from authsvc.core.factors.own_factors import Factors
from authsvc.core.factors.passkey_registration import PasskeyRegistration, PasskeyRegistrationStart
from authsvc.core.factors.totp_enrollment import TotpEnrollments


class AccountBuild(LoginBuild):
    """Builds the parts for accounts; see `BaseBuild`."""

    @cached_property
    def accounts(self) -> Accounts:
        return Accounts(
            database=self.database,
            hasher=self.hasher,
            acceptance=self.password_acceptance,
            session_ending=self.session_ending,
            brute_force=self.brute_force,
            codes=self.code_requests,
            tokens=self.registration_tokens,
            permissions=self.permissions,
            receipts=RequestReceipts(self.database, self.keyring, self.clock),
            clock=self.clock,
            directory_domains=self.settings.emails.directory_domains,
        )

    @cached_property
    def account_listing(self) -> AccountListing:
        return AccountListing(
            database=self.database,
            brute_force=self.brute_force,
            keyring=self.keyring,
            slices=self.slices,
            clock=self.clock,
        )

    @cached_property
    def user_administration(self) -> UserAdministration:
        return UserAdministration(
            database=self.database,
            sessions=self.session_ending,
            brute_force=self.brute_force,
            codes=self.code_requests,
            outbox=self.outbox,
            permissions=self.permissions,
            forget=self.on_revocation,
            clock=self.clock,
            directory_domains=self.settings.emails.directory_domains,
        )

    @cached_property
    def registration_tokens(self) -> RegistrationTokens:
        return RegistrationTokens(self.keyring, self.clock)

    @cached_property
    def impersonation(self) -> Impersonation:
        return Impersonation(
            database=self.database,
            issuer=self.token_issuer,
            settings=self.settings.sessions,
            clock=self.clock,
        )

    @cached_property
    def account_deletion(self) -> AccountDeletion:
        return AccountDeletion(
            database=self.database,
            recent_login=self.recent_login,
            outbox=self.outbox,
            clock=self.clock,
            forget=self.on_revocation,
        )

    @cached_property
    def password_change(self) -> PasswordChange:
        return PasswordChange(
            database=self.database,
            hasher=self.hasher,
            acceptance=self.password_acceptance,
            attempts=self.attempts,
            recent_login=self.recent_login,
            sessions=self.session_ending,
            outbox=self.outbox,
            clock=self.clock,
        )

    @cached_property
    def password_reset(self) -> PasswordReset:
        return PasswordReset(
            database=self.database,
            proofs=self.code_proofs,
            attempts=self.attempts,
            hasher=self.hasher,
            acceptance=self.password_acceptance,
            sessions=self.session_ending,
            outbox=self.outbox,
            clock=self.clock,
        )

    @cached_property
    def email_verification(self) -> EmailVerification:
        return EmailVerification(
            database=self.database,
            codes=self.codes,
            requests=self.code_requests,
            attempts=self.attempts,
            reclaim=self.account_reclaim,
            proofs=OwnerProofs(self.registration_tokens, self.token_validation, self.hasher),
            clock=self.clock,
        )

    @cached_property
    def email_change(self) -> EmailChange:
        return EmailChange(
            database=self.database,
            codes=self.codes,
            limits=self.code_limits,
            attempts=self.attempts,
            outbox=self.outbox,
            recent_login=self.recent_login,
            clock=self.clock,
            directory_domains=self.settings.emails.directory_domains,
        )

    # Second factors

    @cached_property
    def factors(self) -> Factors:
        return Factors(
            database=self.database,
            permissions=self.permissions,
            recent_login=self.recent_login,
            recovery_codes=self.recovery_codes,
            changes=self.factor_changes,
            signals=self.passkey_signalling,
            outbox=self.outbox,
            clock=self.clock,
        )

    @cached_property
    def totp_enrollments(self) -> TotpEnrollments:
        return TotpEnrollments(
            database=self.database,
            settings=self.settings.second_factors,
            recent_login=self.recent_login,
            attempts=self.attempts,
            totp=self.totp,
            recovery_codes=self.recovery_codes,
            changes=self.factor_changes,
        )

    @cached_property
    def passkey_registration_start(self) -> PasskeyRegistrationStart:
        return PasskeyRegistrationStart(
            database=self.database,
            relying_party=self.relying_party,
            recent_login=self.recent_login,
            max_factors=self.settings.second_factors.max_per_user,
            clock=self.clock,
        )

    @cached_property
    def passkey_registration(self) -> PasskeyRegistration:
        return PasskeyRegistration(
            database=self.database,
            relying_party=self.relying_party,
            recent_login=self.recent_login,
            changes=self.factor_changes,
            recovery_codes=self.recovery_codes,
            signals=self.passkey_signalling,
            max_factors=self.settings.second_factors.max_per_user,
            clock=self.clock,
        )

    # API keys

    @cached_property
    def api_keys(self) -> ApiKeys:
        return ApiKeys(
            database=self.database,
            outbox=self.outbox,
            limiter=self.rate_limiter,
            brute_force=self.brute_force,
            recent_login=self.recent_login,
            settings=self.settings.api_keys,
            clock=self.clock,
            forget=self.api_key_cache.drop,
        )
