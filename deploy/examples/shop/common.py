"""Owns what the shop's services share: where everything is, and JSON over gRPC.

The environment says where authsvc is (SHOP_AUTHSVC, SHOP_ISSUER), where the services of the shop
are (SHOP_GATEWAY, SHOP_ORDERS, SHOP_PAYMENTS) and which folder has their certificates (SHOP_CERTS).
"""

import json
import os
from pathlib import Path
from typing import Any

import grpc

ISSUER = os.environ.get("SHOP_ISSUER", "http://127.0.0.1:8081")
READY = "ready"


def address_of(service: str) -> str:
    """Return where a service of the shop listens."""
    return os.environ[f"SHOP_{service.upper()}"]


def authsvc_for(service: str) -> dict[str, Any]:
    """Return how a service of the shop connects to authsvc: with its own certificate."""
    certs = Path(os.environ["SHOP_CERTS"])
    return {
        "target": os.environ["SHOP_AUTHSVC"],
        "ca": certs / "ca.crt",
        "cert": certs / f"shop-{service}.crt",
        "key": certs / f"shop-{service}.key",
    }


def server_credentials(service: str) -> grpc.ServerCredentials:
    """Return the credentials of a service's server, which wants certificates of its clients."""
    files = authsvc_for(service)
    pair = files["key"].read_bytes(), files["cert"].read_bytes()
    return grpc.ssl_server_credentials([pair], files["ca"].read_bytes(), require_client_auth=True)


def channel_credentials(service: str) -> grpc.ChannelCredentials:
    """Return the credentials with which a service calls another."""
    files = authsvc_for(service)
    return grpc.ssl_channel_credentials(
        files["ca"].read_bytes(), files["key"].read_bytes(), files["cert"].read_bytes()
    )


def dump(value: Any) -> bytes:
    """Return a message. A real service has generated code instead."""
    return json.dumps(value).encode()


def load(message: bytes) -> Any:
    """Return what a message says."""
    return json.loads(message)


def handler(service: str, **methods: Any) -> grpc.GenericRpcHandler:
    """Return the handler of a service's methods."""
    made = {
        name: grpc.unary_unary_rpc_method_handler(method, load, dump)
        for name, method in methods.items()
    }
    return grpc.method_handlers_generic_handler(service, made)
