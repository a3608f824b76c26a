"""Owns the identity that a verified token stands for."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple


class PermissionMissing(Exception):
    """The identity lacks a scope that is required.

    Attributes:
        scopes: Those that are missing.
    """

    def __init__(self, scopes: Sequence[str]) -> None:
        super().__init__("missing scopes: " + " ".join(scopes))
        self.scopes = tuple(scopes)


class Identity(NamedTuple):
    """Who presented a token, and what it allows.

    Attributes:
        kind: Whether the token is a user's, or a service's own.
        subject: The user's id, or the identity of the service.
        user_id: The user's id, a UUID; "" in a service's own token.
        service: The identity of the service, such as "spiffe://example.org/shop"; "" in a user's
            token.
        session_id: The session that the token belongs to and ends with; "" in a service's own.
        roles: The user's roles when the token was issued; empty in an exchanged token.
        permissions: What these roles permitted then.
        scopes: What the token allows.
        authentication_methods: How the user logged in (RFC 8176: "pwd", "otp", "hwk", "mfa" …).
        authentication_time: When the user last logged in; None in a service's own token.
        issue_time: When the token was issued.
        expire_time: When it expires.
        actors: The services that act for the user, the current one first; in a session that
            ImpersonateUser opened, the last is the impersonator.
        audiences: Whom the token was issued for.
        token_id: The token's own id.
        key_id: The key that signed it.
        is_bound: Whether it is only accepted together with a certain client certificate.
    """

    kind: Literal["user", "service"]
    subject: str
    user_id: str
    service: str
    session_id: str
    roles: tuple[str, ...]
    permissions: tuple[str, ...]
    scopes: frozenset[str]
    authentication_methods: tuple[str, ...]
    authentication_time: datetime | None
    issue_time: datetime
    expire_time: datetime
    actors: tuple[str, ...]
    audiences: tuple[str, ...]
    token_id: str
    key_id: str
    is_bound: bool

    def require(self, *scopes: str) -> None:
        """Do nothing if the token allows all `scopes`.

        Raises:
            PermissionMissing: It lacks one.
        """
        if not self.scopes.issuperset(scopes):
            raise PermissionMissing([scope for scope in scopes if scope not in self.scopes])
