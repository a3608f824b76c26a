"""Owns the HTTP port: public keys, discovery, related origins, metrics and Kubernetes probes.

It serves nothing secret, over plain HTTP unless `http.tls` is set.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE_OPENMETRICS

from authsvc.app.addresses import split_address
from authsvc.app.web_connections import WebConnections, WebTls
from authsvc.config import Settings
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.errors import ServerError
from authsvc.metrics import Metrics
from authsvc.models.clock import Clock
from authsvc.rpc.call_context import new_request_id

log = structlog.get_logger("authsvc.web")

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_MAX_LINE = 4_096
_HEADERS = {"X-Content-Type-Options": "nosniff", "Server": "authsvc"}
_INTERNAL = "An internal error occurred.\n"
_SILENT = logging.getLogger("authsvc.web.silent")
_SILENT.disabled = True
# Browsers ask at each use of a passkey at another domain.
_RELATED_ORIGINS_CACHE = "public, max-age=3600"
# How old the metrics may be: rendering them takes tens of milliseconds.
_METRICS_SECONDS = 1.0


class Web:
    """The HTTP port; `port` is known once it has started."""

    port: int

    def __init__(
        self,
        *,
        settings: Settings,
        keys: SigningKeys,
        clock: Clock,
        metrics: Metrics,
        middlewares: Sequence[Middleware] = (),
    ) -> None:
        self._address = settings.http.address
        self._issuer = settings.tokens.issuer
        self._related_origins = settings.passkeys.related_origins
        self._keys = keys
        self._clock = clock
        self._metrics = metrics
        self._ready = False
        self._why = ""
        self._ended = False
        app = web.Application(client_max_size=1_024, middlewares=[*middlewares, _harden])
        app.router.add_get("/.well-known/jwks.json", self._jwks)
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/.well-known/webauthn", self._webauthn)
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        self._tls = WebTls(settings.http.tls) if settings.http.tls else None
        self._connections = WebConnections(settings.http, self._serve, self._tls)
        # In the text format, and as OpenMetrics.
        self._rendered: dict[bool, asyncio.Future[bytes]] = {}
        self._runner = web.AppRunner(
            app,
            access_log=None,
            # It would log a traceback for each malformed request, which anybody can send.
            logger=_SILENT,
            handle_signals=False,
            keepalive_timeout=75,
            shutdown_timeout=5,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
        )

    @property
    def tls(self) -> WebTls | None:
        """The certificate that is served, if it is."""
        return self._tls

    def set_ready(self, *, ready: bool, why: str = "") -> None:
        """Set whether /readyz returns 200; otherwise it says `why` not."""
        self._ready = ready and not self._ended
        self._why = why

    def end(self) -> None:
        """Let /readyz return 503 from now on."""
        self._ready, self._ended = False, True

    async def start(self) -> None:
        """Listen.

        Raises:
            ServerError: The address can't be listened on.
        """
        host, port = split_address(self._address)
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        try:
            # Of "::", asyncio would serve IPv6 alone; None is every interface in both families.
            places = None if self._address.startswith(":") else host
            self._listener = await loop.create_server(self._connections.accept, places, port)
        except OSError as error:
            await self._runner.cleanup()
            message = f"HTTP can't listen on {self._address}: {error.strerror or error}"
            raise ServerError(message) from None
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port; requests in progress have five seconds to finish."""
        self._listener.close()
        await self._runner.cleanup()

    async def reload_certificate(self) -> None:
        """Use the certificate's files if they have changed and are valid."""
        if self._tls is not None:
            await self._tls.reload()

    def _serve(self) -> asyncio.Protocol:
        server = self._runner.server
        assert server is not None  # noqa: S101 - `setup` was called before listening
        return server()

    async def _jwks(self, _request: web.Request) -> web.Response:
        return web.Response(
            text=self._keys.jwks(),
            content_type="application/jwk-set+json",
            headers=self._cached_as_keys(),
        )

    async def _discovery(self, _request: web.Request) -> web.Response:
        algorithms = sorted({key["alg"] for key in json.loads(self._keys.jwks())["keys"]})
        return web.json_response(
            {
                "issuer": self._issuer,
                "jwks_uri": f"{self._issuer.rstrip('/')}/.well-known/jwks.json",
                "response_types_supported": ["none"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": algorithms,
            },
            headers=self._cached_as_keys(),
        )

    def _cached_as_keys(self) -> dict[str, str]:
        """Return the header that says how long the keys, or what names them, may be cached."""
        left = self._keys.jwks_expire_time() - self._clock.now()
        return {"Cache-Control": f"public, max-age={max(0, int(left.total_seconds()))}"}

    async def _webauthn(self, _request: web.Request) -> web.Response:
        """Return the pages of other domains that may use passkeys (WebAuthn, section 5.11)."""
        return web.json_response(
            {"origins": self._related_origins}, headers={"Cache-Control": _RELATED_ORIGINS_CACHE}
        )

    async def _get_metrics(self, request: web.Request) -> web.Response:
        transport = request.transport
        if self._tls is not None and not (transport and transport.get_extra_info("peercert")):
            raise web.HTTPForbidden(text="A client certificate is required.\n")
        # What Prometheus prefers by default; anybody else gets what has always been there.
        openmetrics = "application/openmetrics-text" in request.headers.get("Accept", "")
        rendered = self._rendered.get(openmetrics)
        if rendered is None:
            render = partial(self._metrics.render, openmetrics=openmetrics)
            rendered = asyncio.ensure_future(asyncio.to_thread(render))
            self._rendered[openmetrics] = rendered
            loop = asyncio.get_running_loop()
            loop.call_later(_METRICS_SECONDS, self._rendered.pop, openmetrics)
        # One of several that wait may give up.
        body = await asyncio.shield(rendered)
        kind = CONTENT_TYPE_OPENMETRICS if openmetrics else CONTENT_TYPE_LATEST
        return web.Response(body=body, headers={"Content-Type": kind})

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self._ready:
            return web.Response(text="ok\n")
        text = f"not ready: {self._why}\n" if self._why else "not ready\n"
        return web.Response(status=503, text=text)


@web.middleware
async def _harden(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.headers.update(_HEADERS)
        raise
    except Exception:
        # aiohttp's own answer may have a traceback, and nothing would be logged.
        request_id, path = new_request_id(), request.path
        log.exception("http_request_failed", path=path, request_id=request_id)
        response = web.Response(status=500, text=_INTERNAL, headers={"X-Request-Id": request_id})
    response.headers.update(_HEADERS)
    return response
