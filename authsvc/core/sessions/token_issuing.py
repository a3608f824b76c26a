"""Owns the issuing of a session's tokens: an access token, the current refresh token, a cookie."""

from authsvc.core.sessions.cookies import SessionCookies
from authsvc.core.sessions.refresh_tokens import RefreshTokenCodec
from authsvc.core.signing.access_tokens import AccessTokens
from authsvc.models.sessions import Session
from authsvc.models.tokens import Tokens


class TokenIssuer:
    """Issues the tokens of a session in its present state."""

    def __init__(
        self, access_tokens: AccessTokens, refresh_codec: RefreshTokenCodec, cookies: SessionCookies
    ) -> None:
        self._access_tokens = access_tokens
        self._refresh_codec = refresh_codec
        self._cookies = cookies

    def issue(self, session: Session, session_token: str = "", csrf_token: str = "") -> Tokens:
        """Return a new access token, the current refresh token, and the two secrets, if new.

        An impersonated session gets no refresh token, so that it can't be extended.
        """
        access_token, access_token_expire_time = self._access_tokens.issue(session)
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
        )
