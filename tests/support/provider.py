"""An identity provider over real HTTP: OpenID Connect and GitHub, well-behaved by default.

It enforces the rules: a code works once, with the client's secret, the redirect URI and the PKCE
verifier of its challenge (S256).
"""

import base64
import hashlib
import json
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, parse_qsl, unquote_plus, urlencode, urlsplit

import aiohttp
import jwt
import pytest_asyncio
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from authsvc.config import ProviderSettings
from authsvc.models.clock import Clock
from authsvc.outbound.http import JsonClient, open_session
from authsvc.outbound.proxy import DIRECT, ProxyRules
from tests.support.clock import FakeClock

CLIENT_ID = "authsvc at the provider"
CLIENT_SECRET = "the client's secret: 100 % & more"
REDIRECT = "http://localhost:8080/callback"
ACCESS_TOKEN = "provider-access-token"
MAX_BYTES = 65_536

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def signing_key(key_id: str) -> jwt.PyJWK:
    """Return a new private key of this name."""
    key = ec.generate_private_key(ec.SECP256R1())
    content = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key))
    return jwt.PyJWK(content | {"kid": key_id, "alg": "ES256", "use": "sig"})


def public(key: jwt.PyJWK) -> dict[str, Any]:
    """Return the public part of a key as JSON Web Key."""
    return {name: value for name, value in key._jwk_data.items() if name != "d"}


class LocalProvider:
    """The provider; tests set its attributes to change its answers.

    `user` and `emails` are GitHub's data on the user, `claims` override those of id_tokens, and
    `user_info` is what its UserInfo says. Its `issuer` is its address by default. `sign` makes an
    id_token from its claims, `answers` are handlers by path that override its own.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.address = ""
        self.key = signing_key("provider-1")
        self.keys: list[dict[str, Any]] = [public(self.key)]
        self.document: dict[str, Any] = {}
        self.issuer = ""
        self.sends_issuer = False
        self.user_info: dict[str, Any] = {}
        self.claims: dict[str, Any] = {
            "sub": "ada",
            "email": "ada@example.test",
            "email_verified": True,
            "name": "Ada",
        }
        self.user: dict[str, Any] = {"id": 1815, "login": "ada", "name": "Ada"}
        self.emails: Any = [{"email": "ada@example.test", "primary": True, "verified": True}]
        self.sign: Callable[[dict[str, Any]], str] = self.signed
        self.answers: dict[str, Handler] = {}
        self.asked: list[str] = []
        self.headers: list[Any] = []
        self._codes: dict[str, dict[str, str]] = {}

    def settings(self, kind: Literal["github", "oidc"] = "oidc", **more: Any) -> ProviderSettings:
        """Return the settings for this provider."""
        values: dict[str, Any] = {
            "kind": kind,
            "client_id": CLIENT_ID,
            "client_secret": SecretStr(CLIENT_SECRET),
            "address": self.address,
            "api_address": f"{self.address}/api",
        }
        return ProviderSettings(**values | more)

    def log_in(self, authorization_url: str, **claims: Any) -> tuple[str, str]:
        """Log in as a user's browser would; return the code and the state that come back.

        `claims` are for this login only.
        """
        parts = urlsplit(authorization_url)
        page = {"/authorize", "/login/oauth/authorize"}
        assert parts.path in page
        assert authorization_url.startswith(f"{self.address}{parts.path}?")
        query = {name: value for name, (value,) in parse_qs(parts.query).items()}
        assert query["client_id"] == CLIENT_ID
        assert query["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe()
        self._codes[code] = query | {"claims": json.dumps(claims)}
        return code, query["state"]

    def id_token(self, nonce: str, /, **changes: Any) -> str:
        """Return an id_token; a claim that is None is left out."""
        now = int(self._clock.now().timestamp())
        claims = {
            "iss": self.issuer or self.address,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
        }
        claims |= self.claims | changes
        return self.sign({name: value for name, value in claims.items() if value is not None})

    def signed(self, claims: dict[str, Any], **header: Any) -> str:
        """Return claims signed with the provider's key."""
        headers = {"kid": self.key.key_id} | header
        payload = json.dumps(claims).encode()
        return jwt.PyJWS().encode(payload, self.key.key, algorithm="ES256", headers=headers)

    async def dispatch(self, request: web.Request) -> web.StreamResponse:
        """Answer a request with the test's handler, if any, or properly."""
        self.asked.append(request.path)
        self.headers.append(request.headers)
        own: dict[str, Handler] = {
            "/.well-known/openid-configuration": self._discovery,
            "/jwks": self._jwks,
            "/authorize": self._page,
            "/login/oauth/authorize": self._page,
            "/token": self._token,
            "/userinfo": self._userinfo,
            "/login/oauth/access_token": self._github_token,
            "/api/user": self._github_user,
            "/api/user/emails": self._github_emails,
        }
        return await (own | self.answers).get(request.path, _nothing)(request)

    async def _discovery(self, _request: web.Request) -> web.Response:
        document: dict[str, Any] = {
            "issuer": self.issuer or self.address,
            "authorization_endpoint": f"{self.address}/authorize",
            "token_endpoint": f"{self.address}/token",
            "jwks_uri": f"{self.address}/jwks",
            "id_token_signing_alg_values_supported": ["ES256"],
        }
        if self.user_info:
            document["userinfo_endpoint"] = f"{self.address}/userinfo"
        if self.sends_issuer:
            document["authorization_response_iss_parameter_supported"] = True
        return web.json_response(document | self.document)

    async def _page(self, request: web.Request) -> web.Response:
        # As if the user were logged in there and had consented.
        code, state = self.log_in(f"{self.address}{request.path_qs}")
        parameters = {"code": code, "state": state}
        if self.sends_issuer:
            parameters["iss"] = self.issuer or self.address
        back = f"{request.query['redirect_uri']}?{urlencode(parameters)}"
        return web.Response(status=302, headers={"Location": back})

    async def _jwks(self, _request: web.Request) -> web.Response:
        return web.json_response({"keys": self.keys})

    async def _github_user(self, request: web.Request) -> web.Response:
        return _guarded(request, self.user)

    async def _github_emails(self, request: web.Request) -> web.Response:
        size, page = int(request.query.get("per_page", 30)), int(request.query.get("page", 1))
        first = (page - 1) * size
        return _guarded(request, self.emails[first : first + size])

    async def _userinfo(self, request: web.Request) -> web.Response:
        return _guarded(request, self.user_info)

    async def _token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        if _client(request, form) != (CLIENT_ID, CLIENT_SECRET):
            return web.json_response({"error": "invalid_client"}, status=401)
        login = self._redeem(form)
        if login is None or form.get("grant_type") != "authorization_code":
            return web.json_response({"error": "invalid_grant"}, status=400)
        claims = json.loads(login["claims"])
        token = self.id_token(login["nonce"], **claims)
        return web.json_response({"access_token": ACCESS_TOKEN, "id_token": token})

    async def _github_token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        if _client(request, form) != (CLIENT_ID, CLIENT_SECRET):
            return web.json_response({"error": "incorrect_client_credentials"})
        if self._redeem(form) is None:
            return web.json_response({"error": "bad_verification_code"})
        return web.json_response({"access_token": ACCESS_TOKEN, "token_type": "bearer"})

    def _redeem(self, form: dict[str, str]) -> dict[str, str] | None:
        login = self._codes.pop(form.get("code", ""), None)
        if login is None or form.get("redirect_uri") != login["redirect_uri"]:
            return None
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        return login if challenge == login["code_challenge"] else None


async def _nothing(_request: web.Request) -> web.Response:
    return web.Response(status=404, text="nothing here")


def _guarded(request: web.Request, answer: Any) -> web.Response:
    if request.headers.get("Authorization") != f"Bearer {ACCESS_TOKEN}":
        return web.json_response({"message": "Bad credentials"}, status=401)
    return web.json_response(answer)


async def browse(authorization_url: str) -> tuple[str, str]:
    """Follow the service's redirect as a browser; return the code and the state that come back."""
    query = await redirected(authorization_url)
    return query["code"], query["state"]


async def redirected(authorization_url: str) -> Mapping[str, str]:
    """Follow the service's redirect as a browser; return the parameters that come back."""
    async with (
        aiohttp.ClientSession() as browser,
        browser.get(authorization_url, allow_redirects=False) as response,
    ):
        back = urlsplit(response.headers["Location"])
    assert back.geturl().startswith(f"{REDIRECT}?")
    return dict(parse_qsl(back.query))


def _client(request: web.Request, form: dict[str, str]) -> tuple[str, str]:
    scheme, _, pair = request.headers.get("Authorization", "").partition(" ")
    if scheme == "Basic":
        client_id, _, secret = base64.b64decode(pair).decode().partition(":")
        return unquote_plus(client_id), unquote_plus(secret)
    return form.get("client_id", ""), form.get("client_secret", "")


@asynccontextmanager
async def serving(
    provider: LocalProvider, tls: ssl.SSLContext | None = None
) -> AsyncIterator[LocalProvider]:
    """Let a provider listen on its own port; its address is known from then on."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", provider.dispatch)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    provider.address = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    try:
        yield provider
    finally:
        await runner.cleanup()


def saying(
    text: str | bytes, status: int = 200, content_type: str = "application/json", **headers: str
) -> Handler:
    """Return a handler that always gives this answer."""

    async def answer(_request: web.Request) -> web.Response:
        body = text.encode() if isinstance(text, str) else text
        return web.Response(
            body=body,
            status=status,
            headers={"Content-Type": content_type}
            | {name.replace("_", "-"): value for name, value in headers.items()},
        )

    return answer


async def breaking_off(request: web.Request) -> web.StreamResponse:
    """Close the connection in the middle of an answer."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"{")
    assert request.transport is not None
    request.transport.close()
    return response


@pytest_asyncio.fixture
async def provider(clock: FakeClock) -> AsyncIterator[LocalProvider]:
    """A listening provider, on the test's clock."""
    async with serving(LocalProvider(clock)) as provider:
        yield provider


@pytest_asyncio.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """The HTTP client with which the service calls providers."""
    async with open_session() as session:
        yield session


def json_client(
    session: aiohttp.ClientSession,
    patience: float = 60,
    *,
    ca_file: Path | None = None,
    proxies: ProxyRules = DIRECT,
) -> JsonClient:
    """Return a client that waits longer than any test takes."""
    return JsonClient(
        provider="local",
        session=session,
        timeout=patience,
        max_bytes=MAX_BYTES,
        ca_file=ca_file,
        proxies=proxies,
    )
