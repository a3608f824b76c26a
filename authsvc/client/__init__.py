"""The client of authsvc: what a service in Python imports to use it.

It needs only what `pip install authsvc` brings. Names are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from authsvc.client.certificates import CertificateError as CertificateError
    from authsvc.client.connection import AsyncClient as AsyncClient
    from authsvc.client.connection import Client as Client
    from authsvc.client.errors import AuthsvcError as AuthsvcError
    from authsvc.client.errors import ClientClosed as ClientClosed
    from authsvc.client.errors import NotDecidable as NotDecidable
    from authsvc.client.errors import ServiceTimeout as ServiceTimeout
    from authsvc.client.errors import ServiceUnavailable as ServiceUnavailable
    from authsvc.client.errors import TokenRejected as TokenRejected
    from authsvc.client.freshness import Freshness as Freshness
    from authsvc.client.guards.aio import AioGuard as AioGuard
    from authsvc.client.guards.asgi import AsgiGuard as AsgiGuard
    from authsvc.client.guards.current import current_identity as current_identity
    from authsvc.client.guards.grpc_sync import SyncGuard as SyncGuard
    from authsvc.client.guards.sessions import AsyncCookieSessions as AsyncCookieSessions
    from authsvc.client.guards.sessions import CookieSessions as CookieSessions
    from authsvc.client.guards.wsgi import WsgiGuard as WsgiGuard
    from authsvc.client.identity import Identity as Identity
    from authsvc.client.identity import PermissionMissing as PermissionMissing
    from authsvc.client.limiter import AsyncRateLimiter as AsyncRateLimiter
    from authsvc.client.limiter import RateLimiter as RateLimiter
    from authsvc.client.outgoing import SyncInterceptor as SyncInterceptor
    from authsvc.client.outgoing import aio_interceptors as aio_interceptors
    from authsvc.client.outgoing_tokens import (
        AsyncServiceTokenCredentials as AsyncServiceTokenCredentials,
    )
    from authsvc.client.outgoing_tokens import AsyncTokenExchange as AsyncTokenExchange
    from authsvc.client.outgoing_tokens import ServiceTokenCredentials as ServiceTokenCredentials
    from authsvc.client.outgoing_tokens import TokenExchange as TokenExchange
    from authsvc.client.routes import Route as Route
    from authsvc.client.routes import Routes as Routes
    from authsvc.client.validator import AsyncTokenValidator as AsyncTokenValidator
    from authsvc.client.validator import TokenValidator as TokenValidator
    from authsvc.client.verifier import AsyncVerifier as AsyncVerifier
    from authsvc.client.verifier import Verifier as Verifier
    from authsvc.client.when_degraded import AcceptStale as AcceptStale
    from authsvc.client.when_degraded import Ask as Ask
    from authsvc.client.when_degraded import Refuse as Refuse
    from authsvc.client.when_degraded import WhenDegraded as WhenDegraded

# Where each public name is defined. Errors by reason are in authsvc.client.errors.
_MODULES = {
    "AcceptStale": "when_degraded",
    "AioGuard": "guards.aio",
    "AsgiGuard": "guards.asgi",
    "Ask": "when_degraded",
    "AsyncClient": "connection",
    "AsyncCookieSessions": "guards.sessions",
    "AsyncRateLimiter": "limiter",
    "AsyncServiceTokenCredentials": "outgoing_tokens",
    "AsyncTokenExchange": "outgoing_tokens",
    "AsyncTokenValidator": "validator",
    "AsyncVerifier": "verifier",
    "AuthsvcError": "errors",
    "CertificateError": "certificates",
    "Client": "connection",
    "ClientClosed": "errors",
    "CookieSessions": "guards.sessions",
    "Freshness": "freshness",
    "Identity": "identity",
    "NotDecidable": "errors",
    "PermissionMissing": "identity",
    "RateLimiter": "limiter",
    "Refuse": "when_degraded",
    "Route": "routes",
    "Routes": "routes",
    "ServiceTimeout": "errors",
    "ServiceTokenCredentials": "outgoing_tokens",
    "ServiceUnavailable": "errors",
    "SyncGuard": "guards.grpc_sync",
    "SyncInterceptor": "outgoing",
    "TokenExchange": "outgoing_tokens",
    "TokenRejected": "errors",
    "TokenValidator": "validator",
    "Verifier": "verifier",
    "WhenDegraded": "when_degraded",
    "WsgiGuard": "guards.wsgi",
    "aio_interceptors": "outgoing",
    "current_identity": "guards.current",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'authsvc.client' has no attribute {name!r}")
    return getattr(import_module(f"authsvc.client.{_MODULES[name]}"), name)
