"""Valid requests about logins at external providers, with their preconditions."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

from google.protobuf.message import Message

from authsvc.config import OAuthSettings
from authsvc.v1 import account_service_pb2 as account_pb
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1.common_pb2 import ClientContext, Tokens
from tests.support.provider import REDIRECT, LocalProvider, redirected
from tests.support.service import Service

CLIENT = ClientContext(ip="192.0.2.1", user_agent="Browser/1", device_id="phone")


def oauth_settings(provider: LocalProvider) -> OAuthSettings:
    """Return settings with the provider as "local" and as "github"."""
    return OAuthSettings(
        providers={"local": provider.settings(), "github": provider.settings("github")},
        redirect_uris=(REDIRECT,),
        timeout=timedelta(seconds=60),
    )


def begin(provider: str = "local", link: str = "") -> auth_pb.BeginOAuthRequest:
    """Return the start of a login."""
    return auth_pb.BeginOAuthRequest(
        provider=provider, redirect_uri=REDIRECT, client=CLIENT, link_access_token=link
    )


async def came_back(
    service: Service, provider: str = "local", link: str = ""
) -> auth_pb.CompleteOAuthRequest:
    """Start a login and log in at the provider; return the request that completes it."""
    begun = await service.auth().BeginOAuth(begin(provider, link))
    back = await redirected(begun.authorization_url)
    assert back["state"] == begun.state
    return auth_pb.CompleteOAuthRequest(**back, client=CLIENT)


async def _complete(service: Service, _: Tokens) -> auth_pb.CompleteOAuthRequest:
    return await came_back(service)


async def _unlink(service: Service, tokens: Tokens) -> account_pb.UnlinkIdentityRequest:
    linked = await came_back(service, link=tokens.access_token)
    await service.auth().CompleteOAuth(linked)
    return account_pb.UnlinkIdentityRequest(provider="local", subject="ada")


# These record each attempt, rejected or not.
NOTING = {"/authsvc.v1.AuthService/BeginOAuth", "/authsvc.v1.AuthService/CompleteOAuth"}
VALID: Mapping[str, Callable[[Tokens], Message]] = {
    "AuthService/BeginOAuth": lambda tokens: begin(link=tokens.access_token),
    "AccountService/ListIdentities": lambda _: account_pb.ListIdentitiesRequest(),
}
VALID_ONCE: Mapping[str, Callable[[Service, Tokens], Awaitable[Message]]] = {
    "AuthService/CompleteOAuth": _complete,
    "AccountService/UnlinkIdentity": _unlink,
}
