"""Owns what the handlers of the large services work with: one field for each use case."""

from dataclasses import dataclass

from authsvc.core.accounts import Accounts
from authsvc.core.login import PasswordLogin
from authsvc.core.sessions import Sessions
from authsvc.core.signing_keys import SigningKeys
from authsvc.core.tokens import TokenValidation


@dataclass(frozen=True, slots=True)
class AuthUseCases:
    """What AuthService does."""

    login: PasswordLogin
    accounts: Accounts
    sessions: Sessions
    tokens: TokenValidation
    keys: SigningKeys


@dataclass(frozen=True, slots=True)
class AccountUseCases:
    """What AccountService does."""

    accounts: Accounts
