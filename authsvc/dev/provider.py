"""Owns a small identity provider for development: OpenID Connect on this machine only.

It believes any identity that a user claims, stores nothing, and ends with its parent process.
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import html
import json
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus, urlencode

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from authsvc.dev.workspace import PROVIDER_CLIENT, PROVIDER_HOST, PROVIDER_PORT, REDIRECT_URI

READY = "ready"

_CODE_LIFETIME = 60.0
_TOKEN_LIFETIME = 300
_PAGE = """<!doctype html><title>Local provider</title>
<h1>Who are you?</h1>
<form method="post" action="/authorize?{query}">
<p><label>E-mail <input name="email" type="email" value="ada@example.com" required></label></p>
<p><label>Name <input name="name" value="Ada"></label></p>
<p><label>User id, if not derived from the address <input name="subject"></label></p>
<p><button>Log in</button></p></form>"""


@dataclass(frozen=True, slots=True)
class _Login:
    """The login that a code was issued for."""

    query: Mapping[str, str]
    subject: str
    email: str
    name: str
    time: float = field(default_factory=time.monotonic)


class DevProvider:
    """The provider, with a single client, which has this secret."""

    def __init__(self, issuer: str, client_secret: str) -> None:
        self._issuer = issuer
        self._secret = client_secret
        self._logins: dict[str, _Login] = {}
        key = ec.generate_private_key(ec.SECP256R1())
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
        self._key, self._key_id = key, secrets.token_hex(8)
        self._jwk = public | {"kid": self._key_id, "alg": "ES256", "use": "sig"}

    def app(self) -> web.Application:
        """Return the provider's web application."""
        app = web.Application(client_max_size=65_536)
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/jwks", self._jwks)
        app.router.add_get("/authorize", self._ask)
        app.router.add_post("/authorize", self._authorize)
        app.router.add_post("/token", self._token)
        return app

    async def _discovery(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": self._issuer,
                "authorization_endpoint": f"{self._issuer}/authorize",
                "token_endpoint": f"{self._issuer}/token",
                "jwks_uri": f"{self._issuer}/jwks",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
                "code_challenge_methods_supported": ["S256"],
                "authorization_response_iss_parameter_supported": True,
            }
        )

    async def _jwks(self, _request: web.Request) -> web.Response:
        return web.json_response({"keys": [self._jwk]})

    async def _ask(self, request: web.Request) -> web.Response:
        _check(request.query)
        page = _PAGE.format(query=html.escape(request.query_string))
        return web.Response(text=page, content_type="text/html")

    async def _authorize(self, request: web.Request) -> web.Response:
        _check(request.query)
        form = await request.post()
        email, code = str(form.get("email", "")), secrets.token_urlsafe()
        # By default, the same address is the same user.
        subject = str(form.get("subject", "")) or hashlib.sha256(email.encode()).hexdigest()[:16]
        name = str(form.get("name", ""))
        self._logins[code] = _Login(dict(request.query), subject, email, name)
        state = request.query.get("state", "")
        back = urlencode({"code": code, "state": state, "iss": self._issuer})
        raise web.HTTPSeeOther(f"{REDIRECT_URI}?{back}")

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        expected = f"{PROVIDER_CLIENT}:{self._secret}"
        if not hmac.compare_digest(_basic(request).encode(), expected.encode()):
            return web.json_response({"error": "invalid_client"}, status=401)
        login = self._logins.pop(str(form.get("code", "")), None)
        verifier = str(form.get("code_verifier", "")).encode()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier).digest()).rstrip(b"=")
        if (
            login is None
            or time.monotonic() - login.time > _CODE_LIFETIME
            or form.get("redirect_uri") != REDIRECT_URI
            or login.query["code_challenge"] != challenge.decode()
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        token = {"access_token": secrets.token_urlsafe(), "token_type": "Bearer"}
        return web.json_response(token | {"id_token": self._id_token(login)})

    def _id_token(self, login: _Login) -> str:
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": PROVIDER_CLIENT,
            "sub": login.subject,
            "iat": now,
            "exp": now + _TOKEN_LIFETIME,
            "nonce": login.query.get("nonce", ""),
            "email": login.email,
            "email_verified": True,
            "name": login.name,
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._key_id})


def _check(query: Mapping[str, str]) -> None:
    """Reject anything but the client's request for a code with PKCE."""
    expected = {
        "response_type": "code",
        "client_id": PROVIDER_CLIENT,
        "redirect_uri": REDIRECT_URI,
        "code_challenge_method": "S256",
    }
    if any(query.get(name) != value for name, value in expected.items()):
        raise web.HTTPBadRequest
    if not query.get("code_challenge"):
        raise web.HTTPBadRequest


def _basic(request: web.Request) -> str:
    """Return the client's id and secret as "id:secret" (RFC 6749, section 2.3.1)."""
    scheme, _, pair = request.headers.get("Authorization", "").partition(" ")
    try:
        return unquote_plus(base64.b64decode(pair).decode()) if scheme == "Basic" else ""
    except ValueError:
        return ""


async def _serve(secret: str) -> None:
    provider = DevProvider(f"http://{PROVIDER_HOST}:{PROVIDER_PORT}", secret)
    runner = web.AppRunner(provider.app(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, PROVIDER_HOST, PROVIDER_PORT).start()
        sys.stdout.write(READY + "\n")
        sys.stdout.flush()
        # The parent process holds the other end of the pipe, which closes when it ends for any
        # reason.
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await runner.cleanup()


def main() -> None:
    """Serve until standard input is closed."""
    parser = argparse.ArgumentParser(
        description=f"An identity provider at {PROVIDER_HOST}:{PROVIDER_PORT}."
    )
    parser.add_argument("secret_file", type=Path, help="The file with the client's secret.")
    secret = parser.parse_args().secret_file.read_text().strip()
    try:
        asyncio.run(_serve(secret))
    except OSError as error:
        sys.exit(f"{PROVIDER_HOST}:{PROVIDER_PORT}: {error.strerror or error}")


if __name__ == "__main__":
    main()
