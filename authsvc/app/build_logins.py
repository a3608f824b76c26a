"""Owns the construction of the login paths, and of the proofs they accept: codes and factors."""

from functools import cached_property

from authsvc.app.build_base import BaseBuild
from authsvc.core.codes.one_time_codes import OneTimeCodes
from authsvc.core.codes.reclaim import AccountReclaim
from authsvc.core.codes.redemption import CodeProofs
from authsvc.core.codes.requests import CodeLimits, CodeRequests
from authsvc.core.factors.challenges import SecondFactors
from authsvc.core.factors.changes import FactorChanges
from authsvc.core.factors.passkeys import Passkeys
from authsvc.core.factors.proofs import FactorProofs
from authsvc.core.factors.recovery_codes import RecoveryCodes
from authsvc.core.factors.relying_party import RelyingParty
from authsvc.core.factors.signals import PasskeySignalling
from authsvc.core.factors.totp import Totp
from authsvc.core.federation.authorization import OAuthStart
from authsvc.core.federation.identities import Identities
from authsvc.core.federation.providers import Providers
from authsvc.core.federation.states import OAuthStates
from authsvc.core.login.code import CodeLogin
from authsvc.core.login.completion import LoginCompletion
from authsvc.core.login.federated import OAuthLogin
from authsvc.core.login.passkey import BoundAccounts, PasskeyLogin, PasskeyLoginStart
from authsvc.core.login.password import PasswordLogin
from authsvc.core.login.second_factor import MfaVerification
from authsvc.outbound.providers import open_providers
from authsvc.outbound.proxy import proxy_rules


class LoginBuild(BaseBuild):
    """Builds the parts for logins; see `BaseBuild`."""

    @cached_property
    def completion(self) -> LoginCompletion:
        return LoginCompletion(
            sessions=self.session_opening,
            second_factors=self.second_factors,
            codes=self.settings.codes,
            clock=self.clock,
        )

    @cached_property
    def password_login(self) -> PasswordLogin:
        return PasswordLogin(
            database=self.database,
            hasher=self.hasher,
            attempts=self.attempts,
            freezes=self.login_freezes,
            completion=self.completion,
            clock=self.clock,
        )

    # One-time codes

    @cached_property
    def codes(self) -> OneTimeCodes:
        return OneTimeCodes(self.keyring, self.settings.codes, self.clock)

    @cached_property
    def code_limits(self) -> CodeLimits:
        return CodeLimits(
            database=self.database,
            settings=self.settings.codes,
            networks=self.settings.brute_force,
            keyring=self.keyring,
        )

    @cached_property
    def code_requests(self) -> CodeRequests:
        return CodeRequests(
            database=self.database,
            codes=self.codes,
            outbox=self.outbox,
            limits=self.code_limits,
            clock=self.clock,
        )

    @cached_property
    def account_reclaim(self) -> AccountReclaim:
        return AccountReclaim(self.session_ending, self.clock)

    @cached_property
    def code_proofs(self) -> CodeProofs:
        return CodeProofs(self.codes, self.account_reclaim, self.clock)

    @cached_property
    def code_login(self) -> CodeLogin:
        return CodeLogin(
            database=self.database,
            codes=self.codes,
            proofs=self.code_proofs,
            attempts=self.attempts,
            completion=self.completion,
        )

    # Second factors

    @cached_property
    def totp(self) -> Totp:
        return Totp(self.keyring, self.settings.second_factors.issuer, self.clock)

    @cached_property
    def recovery_codes(self) -> RecoveryCodes:
        return RecoveryCodes(self.keyring, self.clock)

    @cached_property
    def factor_changes(self) -> FactorChanges:
        return FactorChanges(self.outbox, self.clock)

    @cached_property
    def second_factors(self) -> SecondFactors:
        return SecondFactors(
            settings=self.settings.second_factors,
            permissions=self.permissions,
            totp=self.totp,
            passkeys=self.passkeys,
            clock=self.clock,
        )

    @cached_property
    def mfa_verification(self) -> MfaVerification:
        proofs = FactorProofs(
            totp=self.totp,
            recovery_codes=self.recovery_codes,
            passkeys=self.passkeys,
            changes=self.factor_changes,
            outbox=self.outbox,
            clock=self.clock,
        )
        return MfaVerification(
            database=self.database,
            settings=self.settings.second_factors,
            attempts=self.attempts,
            completion=self.completion,
            proofs=proofs,
            freezes=self.login_freezes,
            clock=self.clock,
        )

    # Passkeys

    @cached_property
    def relying_party(self) -> RelyingParty:
        return RelyingParty(self.settings.passkeys)

    @cached_property
    def passkey_signalling(self) -> PasskeySignalling:
        return PasskeySignalling(self.settings.passkeys.relying_party_id)

    @cached_property
    def passkeys(self) -> Passkeys:
        return Passkeys(self.relying_party, self.clock)

    @cached_property
    def bound_accounts(self) -> BoundAccounts:
        return BoundAccounts(self.keyring)

    @cached_property
    def passkey_login_start(self) -> PasskeyLoginStart:
        return PasskeyLoginStart(
            database=self.database,
            relying_party=self.relying_party,
            accounts=self.bound_accounts,
            brute_force=self.brute_force,
            clock=self.clock,
        )

    @cached_property
    def passkey_login(self) -> PasskeyLogin:
        return PasskeyLogin(
            database=self.database,
            passkeys=self.passkeys,
            accounts=self.bound_accounts,
            attempts=self.attempts,
            completion=self.completion,
            clock=self.clock,
        )

    # External providers

    @cached_property
    def providers(self) -> Providers:
        proxies = proxy_rules(self.settings.outbound)
        return open_providers(self.settings.oauth, self.http, proxies, self.clock)

    @cached_property
    def oauth_states(self) -> OAuthStates:
        return OAuthStates(
            database=self.database,
            keyring=self.keyring,
            lifetime=self.settings.oauth.state_lifetime,
            clock=self.clock,
        )

    @cached_property
    def identities(self) -> Identities:
        return Identities(
            database=self.database,
            recent_login=self.recent_login,
            outbox=self.outbox,
            clock=self.clock,
        )

    @cached_property
    def oauth_start(self) -> OAuthStart:
        return OAuthStart(
            states=self.oauth_states,
            providers=self.providers,
            settings=self.settings.oauth,
            brute_force=self.brute_force,
            tokens=self.token_validation,
            recent_login=self.recent_login,
        )

    @cached_property
    def oauth_login(self) -> OAuthLogin:
        return OAuthLogin(
            database=self.database,
            states=self.oauth_states,
            providers=self.providers,
            attempts=self.attempts,
            completion=self.completion,
            linked=self.identities,
            reclaim=self.account_reclaim,
            clock=self.clock,
            directory_domains=self.settings.emails.directory_domains,
        )
