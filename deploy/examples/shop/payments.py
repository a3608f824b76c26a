"""The payments of the shop: charge the user in whose name orders calls."""

import asyncio
from typing import Any

import grpc

from authsvc.client import AioGuard, AsyncClient, AsyncVerifier, Route, Routes, current_identity
from deploy.examples.shop import common

ROUTES = Routes({"/shop.v1.Payments/Charge": Route(scopes=("write",))})


async def charge(request: Any, _context: Any) -> Any:
    """Charge the user."""
    who = current_identity()
    return {"charged": request["amount"], "user": who.user_id, "actors": who.actors}


async def main() -> None:
    """Serve until stopped."""
    async with (
        AsyncClient(**common.authsvc_for("payments")) as client,
        AsyncVerifier(client, issuer=common.ISSUER, audience="payments") as verifier,
    ):
        server = grpc.aio.server(interceptors=[AioGuard(verifier, ROUTES)])
        server.add_generic_rpc_handlers([common.handler("shop.v1.Payments", Charge=charge)])
        server.add_secure_port(common.address_of("payments"), common.server_credentials("payments"))
        await server.start()
        print(common.READY, flush=True)
        await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
