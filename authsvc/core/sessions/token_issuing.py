"""Owns what a session's user is given: an access token and the current refresh token."""

from authsvc.core.sessions.refresh_tokens import RefreshTokenCodec
from authsvc.core.signing.access_tokens import AccessTokens
from authsvc.models.sessions import Session
from authsvc.models.tokens import Tokens


class TokenIssuer:
    """Makes the tokens of a session as it stands."""

    def __init__(self, access_tokens: AccessTokens, refresh_codec: RefreshTokenCodec) -> None:
        self._access_tokens = access_tokens
        self._refresh_codec = refresh_codec

    def issue(self, session: Session, session_token: str = "", csrf_token: str = "") -> Tokens:
        """Return a new access token, the current refresh token, and the two secrets if new."""
        access_token, access_token_expire_time = self._access_tokens.issue(session)
        return Tokens(
            access_token=access_token,
            access_token_expire_time=access_token_expire_time,
            refresh_token=self._refresh_codec.encode(session.session_id, session.refresh_counter),
            refresh_token_expire_time=session.idle_expire_time,
            session_id=session.session_id,
            session_token=session_token,
            csrf_token=csrf_token,
            user_id=session.user_id,
        )
