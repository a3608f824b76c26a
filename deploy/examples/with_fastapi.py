"""An application with FastAPI behind the guard: `uvicorn deploy.examples.with_fastapi:guarded`."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from authsvc.client import AsgiGuard, AsyncClient, AsyncVerifier, Route, Routes, current_identity

ADDRESS = os.environ.get("AUTHSVC", "127.0.0.1:8443")
ISSUER = os.environ.get("ISSUER", "http://127.0.0.1:8081")
CERTIFICATES = Path(os.environ.get("CERTIFICATES", ".authsvc/certs"))
FILES: dict[str, Any] = {
    "ca": CERTIFICATES / "ca.crt",
    "cert": CERTIFICATES / "clients" / "app.crt",
    "key": CERTIFICATES / "clients" / "app.key",
}

app = FastAPI()


@app.get("/orders/{order}")
async def read_order(order: int) -> dict[str, object]:
    """Return an order of the user."""
    return {"order": order, "user": current_identity().user_id}


@app.post("/orders")
def place_order() -> dict[str, object]:
    """Place an order; FastAPI runs plain functions in threads, which know the identity too."""
    return {"user": current_identity().user_id}


@asynccontextmanager
async def open_verifier() -> AsyncIterator[AsyncVerifier]:
    """Open the verifier; the guard does it when the server starts."""
    async with (
        AsyncClient(ADDRESS, **FILES) as client,
        AsyncVerifier(client, issuer=ISSUER, audience="authsvc") as verifier,
    ):
        yield verifier


ROUTES = Routes(
    {
        "GET /orders/{order}": Route(scopes=("read",)),
        "POST /orders": Route(scopes=("write",)),
        "GET /openapi.json": Route(public=True),
    }
)
guarded = AsgiGuard(app, open_verifier, ROUTES)
