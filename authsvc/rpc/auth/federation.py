"""Owns the RPCs of AuthService for logins at external providers."""

from functools import partial

from authsvc.core.federation.providers import AuthorizationAnswer
from authsvc.models.incidents import LoginMethod
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.rpc.login_messages import fill_login
from authsvc.rpc.topic import Topic
from authsvc.v1 import auth_service_pb2 as pb


class OAuthRpcs(Topic):
    """Logins at external providers."""

    async def BeginOAuth(
        self, request: pb.BeginOAuthRequest, _context: Context
    ) -> pb.BeginOAuthResponse:
        """Return the URL to send the user's browser to."""
        provider = convert.text(request.provider, "provider", 64, required=True)
        redirect_uri = convert.text(request.redirect_uri, "redirect_uri", 2_048, required=True)
        client = convert.client_context(request.client)
        link_token = convert.text(request.link_access_token, "link_access_token", 8_192)
        await self._use.login_freezes.require_open(LoginMethod.FEDERATED, client)
        authorization = await self._use.oauth_start.begin(
            provider, redirect_uri, client, link_token
        )
        return pb.BeginOAuthResponse(authorization_url=authorization.url, state=authorization.state)

    async def CompleteOAuth(
        self, request: pb.CompleteOAuthRequest, _context: Context
    ) -> pb.CompleteOAuthResponse:
        """Log in a user who was redirected back by a provider."""
        state = convert.text(request.state, "state", 256, required=True)
        answer = AuthorizationAnswer(
            convert.text(request.code, "code", 4_096, required=True),
            convert.text(request.iss, "iss", 2_048),
        )
        client = convert.client_context(request.client)
        complete = partial(self._use.oauth_login.complete, current_call(), state, answer, client)
        result = await self._use.logins.run(LoginMethod.FEDERATED, client, complete)
        response = pb.CompleteOAuthResponse(new_user=result.new_user)
        fill_login(response, result.outcome)
        return response
