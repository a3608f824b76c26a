"""Owns what the holder of a session gets: its tokens, and the cookie that carries its secret."""

from datetime import datetime

from authsvc.config import CookieSettings
from authsvc.core.sessions.refresh_tokens import RefreshTokenCodec
from authsvc.core.signing.access_tokens import AccessTokens
from authsvc.models.clock import Clock
from authsvc.models.revocations import RevocationCursor
from authsvc.models.sessions import Session
from authsvc.models.tokens import Tokens


class SessionCookies:
    """Writes Set-Cookie headers (RFC 6265bis); they are "" without settings for the cookie.

    The characters of session tokens need no quoting.
    """

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


class TokenIssuer:
    """Issues the tokens of a session in its present state."""

    def __init__(
        self, access_tokens: AccessTokens, refresh_codec: RefreshTokenCodec, cookies: SessionCookies
    ) -> None:
        self._access_tokens = access_tokens
        self._refresh_codec = refresh_codec
        self._cookies = cookies

    async def issue(
        self,
        session: Session,
        time: datetime,
        *,
        session_token: str = "",
        csrf_token: str = "",
        revoked: RevocationCursor | None = None,
    ) -> Tokens:
        """Return a new access token, the current refresh token, and the two secrets, if new.

        `time` is the time of issue, as in `AccessTokens.issue`. `revoked` names what ended for it.
        An impersonated session gets no refresh token, so that it can't be extended.

        Raises:
            StoreUnavailable: As `AccessTokens.issue`.
        """
        access_token, access_token_expire_time = await self._access_tokens.issue(session, time)
        refresh_token = set_cookie = ""
        if session.impersonator is None:
            refresh_token = self._refresh_codec.encode(session.session_id, session.refresh_counter)
        if session_token:
            set_cookie = self._cookies.setting(session_token, session.absolute_expire_time)
        return Tokens(
            access_token=access_token,
            access_token_expire_time=access_token_expire_time,
            refresh_token=refresh_token,
            refresh_token_expire_time=session.idle_expire_time,
            session_id=session.session_id,
            session_token=session_token,
            csrf_token=csrf_token,
            user_id=session.user_id,
            set_cookie=set_cookie,
            revoked=revoked,
        )
