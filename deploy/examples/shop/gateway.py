"""The web gateway of the shop: a WSGI application that browsers and apps talk to."""

import json
from collections.abc import Callable, Iterable
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import grpc

from authsvc.client import (
    AuthsvcError,
    Client,
    Route,
    Routes,
    SyncInterceptor,
    TokenExchange,
    Verifier,
    WsgiGuard,
)
from authsvc.v1.auth_service_pb2 import LoginRequest, LogoutRequest
from authsvc.v1.common_pb2 import ClientContext
from deploy.examples.shop import common

ROUTES = Routes(
    {
        "POST /login": Route(public=True),
        "POST /logout": Route(public=True),
        "POST /orders": Route(scopes=("write",)),
    }
)


class Shop:
    """The application."""

    def __init__(self, client: Client, orders: grpc.Channel) -> None:
        self._auth = client.auth
        # The user's token is for this gateway; orders gets one that is for orders.
        exchanging = grpc.intercept_channel(
            orders, SyncInterceptor(TokenExchange(client, "orders"))
        )
        self._place: Any = exchanging.unary_unary("/shop.v1.Orders/Place", common.dump, common.load)

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Serve a request."""
        routes = {
            "POST /login": self._log_in,
            "POST /logout": self._log_out,
            "POST /orders": self._order,
        }
        route = routes.get(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        status, answer = HTTPStatus.NOT_FOUND, {}
        if route is not None:
            size = int(environ.get("CONTENT_LENGTH") or 0)
            try:
                body = json.loads(environ["wsgi.input"].read(size))
                status, answer = HTTPStatus.OK, route(body, environ)
            except AuthsvcError as error:
                status, answer = _status(error.code), {"reason": error.reason}
            except grpc.RpcError as error:
                call: Any = error
                status, answer = _status(call.code()), {"reason": call.details()}
        start_response(f"{status.value} {status.phrase}", [("content-type", "application/json")])
        return [json.dumps(answer).encode()]

    def _log_in(self, body: Any, environ: dict[str, Any]) -> Any:
        source = ClientContext(
            ip=environ["REMOTE_ADDR"], user_agent=environ.get("HTTP_USER_AGENT", "")
        )
        request = LoginRequest(email=body["email"], password=body["password"], client=source)
        tokens = self._auth.Login(request).tokens
        return {"access_token": tokens.access_token, "refresh_token": tokens.refresh_token}

    def _log_out(self, body: Any, _environ: dict[str, Any]) -> Any:
        self._auth.Logout(LogoutRequest(refresh_token=body["refresh_token"]))
        return {}

    def _order(self, body: Any, _environ: dict[str, Any]) -> Any:
        return self._place({"amount": body["amount"]})


def _status(code: grpc.StatusCode) -> HTTPStatus:
    known = {
        grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
        grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
        grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
        grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    }
    return known.get(code, HTTPStatus.BAD_GATEWAY)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Print nothing."""


def main() -> None:
    """Serve until stopped."""
    with (
        Client(**common.authsvc_for("gateway")) as client,
        Verifier(client, issuer=common.ISSUER, audience="authsvc") as verifier,
        grpc.secure_channel(
            common.address_of("orders"), common.channel_credentials("gateway")
        ) as orders,
    ):
        guarded = WsgiGuard(Shop(client, orders), verifier, ROUTES)
        host, _, port = common.address_of("gateway").rpartition(":")
        with make_server(host, int(port), guarded, _Server, _Quiet) as server:
            print(common.READY, flush=True)
            server.serve_forever()


if __name__ == "__main__":
    main()
