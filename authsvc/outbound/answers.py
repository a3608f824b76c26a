"""Owns the meaning of providers' responses: who can do something about one that is no success.

A code may be refused, which concerns one user; a fault may pass by itself; all others last until an
operator mends something. Each is logged with its status and its OAuth error code.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import structlog

from authsvc.core.federation.providers import AuthorizationAnswer
from authsvc.errors import (
    ProviderMisconfigured,
    ProviderUnavailable,
    ServiceError,
    Unauthenticated,
    credentials_invalid,
)

JsonObject: TypeAlias = Mapping[str, Any]

# A code that no provider has issued, to find out what a provider says of all else.
UNISSUED_CODE = "authsvc-check"

# The codes that concern one user's login: RFC 6749, section 5.2; GitHub's; those with which Entra
# and Okta apply their policies; OpenID Connect Core, section 3.1.2.6.
_REFUSALS = frozenset(
    {
        "invalid_grant",
        "bad_verification_code",
        "access_denied",
        "interaction_required",
        "login_required",
        "consent_required",
    }
)
_PASSING_CODES = frozenset({"server_error", "temporarily_unavailable", "slow_down"})
# The only 4xx statuses that pass (RFC 9110, RFC 8470, RFC 6585).
_PASSING_STATUSES = frozenset({408, 425, 429})
_SECRET = "check client_id and client_secret; the secret may have expired"  # noqa: S105 - advice
_MENDED_BY: Mapping[str, str] = {
    "invalid_client": _SECRET,
    "unauthorized_client": _SECRET,
    "incorrect_client_credentials": _SECRET,
    "redirect_uri_mismatch": "register the redirect URI with the provider",
    "invalid_scope": "leave out of scopes what the provider doesn't know",
    "application_suspended": "ask the provider why it has suspended the application",
}
# Only these are logged: nothing else of a response ever is.
_CODE = re.compile(r"[a-z]{1,24}(_[a-z]{1,24}){0,4}")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's response; `content` is any JSON, or None, and may contain secrets."""

    provider: str
    host: str
    status: int
    content: Any = field(repr=False)

    @property
    def oauth_error(self) -> str:
        """The error code in the content (RFC 6749, section 5.2), "other", or ""."""
        found = self.content.get("error", "") if isinstance(self.content, dict) else ""
        if isinstance(found, str) and (not found or _CODE.fullmatch(found)):
            return found
        return "other"

    @property
    def is_refusal(self) -> bool:
        """Whether the provider refused the code, whatever its status: Auth0 says 403."""
        return self.status < 500 and self.oauth_error in _REFUSALS

    @property
    def refuses_client(self) -> bool:
        """Whether the provider does not accept the client's id or secret."""
        return _MENDED_BY.get(self.oauth_error) is _SECRET

    def members(self) -> JsonObject:
        """Return the content, if the status is 200 and it is an object.

        Raises:
            ProviderUnavailable: Otherwise.
            ProviderMisconfigured: Otherwise, if it lasts until an operator mends something.
        """
        if self.status != 200 or not isinstance(self.content, dict):
            raise self.failure()
        return self.content

    def refusal(self) -> Unauthenticated:
        """Log that the provider refused the code, and return the error for it."""
        log.info("provider_refused_code", **self._facts())
        return credentials_invalid()

    def failure(self) -> ServiceError:
        """Log why this response is of no use, and return the error for it."""
        code = self.oauth_error
        passes = (
            code in _PASSING_CODES
            or self.status in _PASSING_STATUSES
            or self.status >= 500
            or (self.status == 200 and not code)
        )
        if passes:
            log.warning("provider_failed", **self._facts(), error="not the expected response")
            return ProviderUnavailable()
        log.error("provider_misconfigured", **self._facts(), mend=self._advice())
        return ProviderMisconfigured()

    def _facts(self) -> dict[str, object]:
        facts = {"provider": self.provider, "host": self.host, "status": self.status}
        return facts | ({"oauth_error": self.oauth_error} if self.oauth_error else {})

    def _advice(self) -> str:
        if self.oauth_error in _MENDED_BY:
            return _MENDED_BY[self.oauth_error]
        if self.status < 400 or self.status in {404, 405, 410}:
            return "check the provider's address; redirects are not followed"
        return "compare the provider's settings with the application registered there"


def check_issuer(answer: AuthorizationAnswer, issuer: str, provider: str) -> None:
    """Check that a redirect which names its issuer comes from this one (RFC 9207, section 2.4).

    Raises:
        Unauthenticated: CREDENTIALS_INVALID: it comes from another one; the log says so.
    """
    if answer.issuer not in ("", issuer):
        log.warning("provider_mixed_up", provider=provider, issuer=issuer)
        raise credentials_invalid()
