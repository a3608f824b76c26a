"""Owns the comparison of a small service without a guard, with one, and one that asks each time.

A fourth has an interceptor that does nothing: what gRPC takes for any, however quick it is.

As a program it is one of these services, in a process of its own: the certificates' folder, the
port of authsvc, the issuer, and one of KINDS.
"""

import asyncio
import statistics
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import uvloop

from authsvc.client import AioGuard, AsyncClient, AsyncVerifier
from authsvc.v1.auth_service_pb2 import ValidateTokenRequest
from tests.bench.load import Sample, drive, median
from tests.bench.processes import Target

KINDS = ("bare", "intercepted", "guarded", "asking")
METHOD = "/bench.Sample/Echo"


async def compare(
    servers: Mapping[str, Target], token: str, *, seconds: float, rounds: int
) -> tuple[dict[str, Sample], dict[str, float]]:
    """Return each kind's figures, and the calls/s of the guarded by those of each kind.

    The kinds take turns, so that changes of the machine's speed hit all of them.
    """
    metadata = (("authorization", f"Bearer {token}"),)
    samples: dict[str, list[Sample]] = {kind: [] for kind in KINDS}
    async with AsyncExitStack() as stack:
        calls: dict[str, Any] = {}
        for kind in KINDS:
            channel = await stack.enter_async_context(servers[kind].channel("app"))
            calls[kind] = channel.unary_unary(METHOD)
            await calls[kind](b"x" * 200, metadata=metadata, wait_for_ready=True)
        for number in range(rounds + 1):
            for kind in KINDS:

                def work(_: int, call: Any = calls[kind]) -> Any:
                    return call(b"x" * 200, metadata=metadata)

                sample = await drive(servers[kind], work, concurrency=64, seconds=seconds)
                if number:  # the first warms up
                    samples[kind].append(sample)
    ratios = {
        kind: statistics.median(
            guarded.rate / other.rate
            for guarded, other in zip(samples["guarded"], found, strict=True)
        )
        for kind, found in samples.items()
    }
    return {kind: median(found) for kind, found in samples.items()}, ratios


class _Nothing(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return await continuation(handler_call_details)


async def _serve(certs: Path, port: int, issuer: str, kind: str) -> None:
    files: dict[str, Any] = {
        "ca": certs / "ca.crt",
        "cert": certs / "clients" / "app.crt",
        "key": certs / "clients" / "app.key",
    }
    async with AsyncClient(f"127.0.0.1:{port}", **files) as client:
        verifier = AsyncVerifier(client, issuer=issuer, audience="authsvc")
        interceptors: list[grpc.aio.ServerInterceptor] = []
        if kind == "guarded":
            interceptors = [AioGuard(verifier)]
            await verifier.start()
        elif kind == "intercepted":
            interceptors = [_Nothing()]

        async def echo(request: bytes, context: Any) -> bytes:
            if kind == "asking":
                token = dict(context.invocation_metadata())["authorization"].removeprefix("Bearer ")
                answer = await client.auth.ValidateToken(ValidateTokenRequest(access_token=token))
                if not answer.active:
                    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "")
            return request

        server = grpc.aio.server(interceptors=interceptors, options=[("grpc.so_reuseport", 0)])
        handler: Any = grpc.unary_unary_rpc_method_handler(echo)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("bench.Sample", {"Echo": handler}),)
        )
        credentials = grpc.ssl_server_credentials(
            [((certs / "server.key").read_bytes(), (certs / "server.crt").read_bytes())],
            (certs / "ca.crt").read_bytes(),
            require_client_auth=True,
        )
        print(server.add_secure_port("127.0.0.1:0", credentials), flush=True)
        await server.start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]))
