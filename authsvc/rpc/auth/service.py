"""Owns the handlers of AuthService: each converts, calls one use case, converts back."""

from weakref import WeakKeyDictionary

from authsvc.core.accounts.accounts import Registration
from authsvc.core.tokens.validation import TokenCheck, TokenResult
from authsvc.models.tokens import TokenClaims
from authsvc.rpc import Context, convert
from authsvc.rpc.account.messages import display_name
from authsvc.rpc.auth.api_keys import KeyRpcs
from authsvc.rpc.auth.codes import CodeRpcs
from authsvc.rpc.auth.factors import MfaRpcs
from authsvc.rpc.auth.federation import OAuthRpcs
from authsvc.rpc.auth.passkeys import PasskeyRpcs
from authsvc.rpc.auth.tokens import TokenRpcs
from authsvc.rpc.call_context import current_call
from authsvc.rpc.login_messages import delivery, fill_login, returned_code
from authsvc.rpc.use_cases import AuthUseCases
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1 import auth_service_pb2_grpc as rpc

_MAX_EMAIL = 254
_MAX_PASSWORD = 1_024
# Room for a token of any kind, so that the wrong kind is told apart from what is no token at all.
_MAX_REFRESH_TOKEN = 8_192


class AuthHandler(
    KeyRpcs, TokenRpcs, CodeRpcs, MfaRpcs, OAuthRpcs, PasskeyRpcs, rpc.AuthServiceServicer
):
    """Credentials in, tokens out; and the question whether a token is still good."""

    def __init__(self, use: AuthUseCases) -> None:
        self._use = use
        # Making a message costs more than judging a cached token, so it is kept beside its claims.
        self._active: WeakKeyDictionary[TokenClaims, pb.ValidateTokenResponse] = WeakKeyDictionary()

    async def Register(self, request: pb.RegisterRequest, _context: Context) -> pb.RegisterResponse:
        """Create an account with an e-mail address and a password."""
        wanted = delivery(request.delivery)
        registration = Registration(
            email=convert.text(request.email, "email", _MAX_EMAIL, required=True),
            password=convert.text(request.password, "password", _MAX_PASSWORD, required=True),
            display_name=display_name(request.display_name),
            client=convert.client_context(request.client),
            delivery=wanted,
        )
        made = await self._use.accounts.register(current_call(), registration)
        return pb.RegisterResponse(user_id=str(made.user_id), code=returned_code(made.code, wanted))

    async def Login(self, request: pb.LoginRequest, _context: Context) -> pb.LoginResponse:
        """Check an e-mail address and a password and create a session."""
        outcome = await self._use.login.login(
            current_call(),
            convert.text(request.email, "email", _MAX_EMAIL, required=True),
            convert.text(request.password, "password", _MAX_PASSWORD, required=True),
            convert.client_context(request.client),
        )
        response = pb.LoginResponse()
        fill_login(response, outcome)
        return response

    async def RefreshTokens(
        self, request: pb.RefreshTokensRequest, _context: Context
    ) -> pb.RefreshTokensResponse:
        """Replace a refresh token by a new pair of tokens."""
        tokens = await self._use.sessions.refresh(
            current_call(),
            convert.text(request.refresh_token, "refresh_token", _MAX_REFRESH_TOKEN, required=True),
            convert.client_context(request.client),
        )
        return pb.RefreshTokensResponse(tokens=convert.tokens_message(tokens))

    async def Logout(self, request: pb.LogoutRequest, _context: Context) -> pb.LogoutResponse:
        """End the session of a refresh token."""
        token = convert.text(
            request.refresh_token, "refresh_token", _MAX_REFRESH_TOKEN, required=True
        )
        await self._use.sessions.logout(current_call(), token)
        return pb.LogoutResponse()

    async def ValidateToken(
        self, request: pb.ValidateTokenRequest, _context: Context
    ) -> pb.ValidateTokenResponse:
        """Say whether an access token is active, and what it says."""
        check = TokenCheck(
            convert.token(request.access_token, "access_token"),
            convert.text(request.audience, "audience", 256),
            convert.scopes(request.required_scopes, "required_scopes"),
            request.strict,
            convert.thumbprint(request.certificate_thumbprint, "certificate_thumbprint"),
        )
        return self._result(await self._use.tokens.validate(check))

    async def BatchValidateTokens(
        self, request: pb.BatchValidateTokensRequest, _context: Context
    ) -> pb.BatchValidateTokensResponse:
        """Say of up to 1000 access tokens whether they are active."""
        convert.batch_size(request.access_tokens, "access_tokens")
        tokens = [
            convert.token(token, f"access_tokens[{index}]")
            for index, token in enumerate(request.access_tokens)
        ]
        results = await self._use.tokens.validate_many(
            tokens, convert.text(request.audience, "audience", 256)
        )
        return pb.BatchValidateTokensResponse(results=map(self._result, results))

    async def GetJwks(self, _request: pb.GetJwksRequest, _context: Context) -> pb.GetJwksResponse:
        """Return the public keys that verify access tokens."""
        return pb.GetJwksResponse(
            jwks_json=self._use.keys.jwks(),
            expire_time=convert.timestamp(self._use.keys.jwks_expire_time()),
        )

    def _result(self, result: TokenResult) -> pb.ValidateTokenResponse:
        claims = result.claims
        if claims is None or result.reason is not None:
            reason = convert.inactive_reason(result.reason)
            return pb.ValidateTokenResponse(inactive_reason=reason)
        message = self._active.get(claims)
        if message is None:
            message = pb.ValidateTokenResponse(active=True, claims=convert.claims_message(claims))
            self._active[claims] = message
        return message
