"""The orders of the shop: place one, and have it paid in the user's name."""

import asyncio
from typing import Any

import grpc

from authsvc.client import (
    AioGuard,
    AsyncClient,
    AsyncTokenExchange,
    AsyncVerifier,
    Route,
    Routes,
    aio_interceptors,
    current_identity,
)
from deploy.examples.shop import common

ROUTES = Routes({"/shop.v1.Orders/Place": Route(scopes=("write",))})


async def main() -> None:
    """Serve until stopped."""
    async with (
        AsyncClient(**common.authsvc_for("orders")) as client,
        AsyncVerifier(client, issuer=common.ISSUER, audience="orders") as verifier,
        grpc.aio.secure_channel(
            common.address_of("payments"),
            common.channel_credentials("orders"),
            # The user's token is for orders; payments gets one that is for payments.
            interceptors=aio_interceptors(AsyncTokenExchange(client, "payments")),
        ) as payments,
    ):
        pay: Any = payments.unary_unary("/shop.v1.Payments/Charge", common.dump, common.load)

        async def place(request: Any, context: Any) -> Any:
            try:
                payment = await pay({"amount": request["amount"]})
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), f"payments: {error.details()}")
            return {"user": current_identity().user_id, "payment": payment}

        server = grpc.aio.server(interceptors=[AioGuard(verifier, ROUTES)])
        server.add_generic_rpc_handlers([common.handler("shop.v1.Orders", Place=place)])
        server.add_secure_port(common.address_of("orders"), common.server_credentials("orders"))
        await server.start()
        print(common.READY, flush=True)
        await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
