"""Owns the cookie that carries a session's token: the Set-Cookie headers that set and remove it.

RFC 6265bis. The characters of session tokens need no quoting.
"""

from datetime import datetime

from authsvc.config import CookieSettings
from authsvc.models.clock import Clock


class SessionCookies:
    """Writes Set-Cookie headers; they are "" without settings for the cookie."""

    def __init__(self, settings: CookieSettings | None, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock

    def setting(self, session_token: str, end: datetime) -> str:
        """Return the header that sets the cookie to a session's token until the session's `end`.

        `end` is the session's absolute expiry: idle sessions end earlier, but the cookie isn't set
        again when a session is extended.
        """
        return self._header(session_token, round((end - self._clock.now()).total_seconds()))

    def removal(self) -> str:
        """Return the header that removes the cookie."""
        return self._header("", 0)

    def _header(self, value: str, max_age: int) -> str:
        cookie = self._settings
        if cookie is None:
            return ""
        parts = [f"{cookie.name}={value}", f"Max-Age={max_age}", f"Path={cookie.path}"]
        if cookie.domain is not None:
            parts.append(f"Domain={cookie.domain}")
        if cookie.secure:
            parts.append("Secure")
        if cookie.http_only:
            parts.append("HttpOnly")
        parts.append(f"SameSite={cookie.same_site.capitalize()}")
        return "; ".join(parts)
