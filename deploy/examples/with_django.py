"""An application with Django behind the guard: `python -m deploy.examples.with_django PORT`."""

import os
import sys
from pathlib import Path
from typing import Any
from wsgiref.simple_server import make_server

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from authsvc.client import Client, Identity, Route, Routes, Verifier, WsgiGuard

ADDRESS = os.environ.get("AUTHSVC", "127.0.0.1:8443")
ISSUER = os.environ.get("ISSUER", "http://127.0.0.1:8081")
CERTIFICATES = Path(os.environ.get("CERTIFICATES", ".authsvc/certs"))
FILES: dict[str, Any] = {
    "ca": CERTIFICATES / "ca.crt",
    "cert": CERTIFICATES / "clients" / "app.crt",
    "key": CERTIFICATES / "clients" / "app.key",
}
ROUTES = Routes({"/orders/{order}": Route(scopes=("read",))})


def read_order(request: HttpRequest, order: int) -> JsonResponse:
    """Return an order of the user; `current_identity()` returns the same."""
    identity: Identity = request.environ["authsvc.identity"]
    return JsonResponse({"order": order, "user": identity.user_id})


urlpatterns = [path("orders/<int:order>", read_order)]


def main() -> None:
    """Serve until stopped."""
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"])
    with (
        Client(ADDRESS, **FILES) as client,
        Verifier(client, issuer=ISSUER, audience="authsvc") as verifier,
    ):
        guarded = WsgiGuard(get_wsgi_application(), verifier, ROUTES)
        with make_server("127.0.0.1", int(sys.argv[1]), guarded) as server:
            print("ready", flush=True)
            server.serve_forever()


if __name__ == "__main__":
    main()
