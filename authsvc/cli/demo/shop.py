"""Owns the chapter about a sample shop: three services that verify tokens by themselves."""

import asyncio
import os
import re
import sys
import time
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from authsvc.cli.demo.tour import Tour
from authsvc.dev import certificates
from authsvc.dev.ports import addresses, dialled, free

_REPOSITORY = Path(__file__).parents[3]
_SERVICES = ("gateway", "orders", "payments")
_ORDERS = 50
_WAIT = 10.0
# Metrics are rendered once a second.
_METRICS_AGE = 1.1
_CALLS = re.compile(
    r'^authsvc_rpc_calls_total\{.*method="[^"]*/(\w+)".*\} ([0-9.e+]+)$', re.MULTILINE
)


async def shop(tour: Tour) -> None:
    """Show services that nobody has to ask, and that refuse a token right after a logout."""
    tour.title("A shop of three services runs on this machine during the chapter")
    config = tomllib.loads((tour.state / "config.toml").read_text("utf-8"))
    if not (_REPOSITORY / "deploy" / "examples" / "shop").is_dir():
        tour.skip("its code is in the repository: deploy/examples/shop")
        return
    known = {caller["identity"] for caller in config.get("callers", ())}
    if not known.issuperset(_identity(name) for name in _SERVICES):
        tour.skip(f"{tour.state}/config.toml is too old to know its services")
        return
    async with _running(tour, config) as gateway:
        tour.say("running", "gateway (WSGI) → orders (gRPC) → payments (gRPC)")
        await _visit(tour, gateway)


async def _visit(tour: Tour, gateway: str) -> None:
    async with aiohttp.ClientSession(gateway) as browser:

        async def post(path: str, token: str = "", **body: Any) -> tuple[int, Any]:
            headers = {"authorization": f"Bearer {token}"} if token else {}
            async with browser.post(path, json=body, headers=headers) as response:
                return response.status, await response.json()

        await tour.tokens()  # registers Ada
        _, tokens = await post("/login", email=tour.email, password=tour.password)
        access = tokens["access_token"]
        status, _ = await post("/orders", amount=5)
        tour.answer("an order without a token", f"HTTP {status}", accepted=status == 200)
        status, order = await post("/orders", access, amount=5)
        tour.answer("Ada's order", f"HTTP {status}", accepted=status == 200, expected=True)
        payment = order["payment"]
        tour.say("payments charged", f"{payment['user']}, called by {payment['actors'][0]}")

        tour.title(f"She orders {_ORDERS} times more; nobody asks authsvc")
        before = await _calls(tour)
        statuses = [(await post("/orders", access, amount=n))[0] for n in range(_ORDERS)]
        after = await _calls(tour)
        tour.answer(
            "requests, each checked by three services",
            3 * len(statuses),
            accepted=set(statuses) == {200},
            expected=True,
        )
        if before is not None and after is not None:
            asked = {name: after[name] - before.get(name, 0.0) for name in after}
            seen = ", ".join(f"{count:.0f} {name}" for name, count in asked.items() if count)
            tour.say("calls that authsvc saw meanwhile", seen or "0")

        tour.title("Ada logs out")
        await post("/logout", refresh_token=tokens["refresh_token"])
        ended = time.monotonic()
        while (await post("/orders", access, amount=5))[0] == 200:
            if time.monotonic() > ended + _WAIT:
                tour.fail("her token", "is still accepted")
        took = time.monotonic() - ended
        tour.answer("her next order", f"HTTP 401 after {1000 * took:.0f} ms", accepted=False)


@asynccontextmanager
async def _running(tour: Tour, config: dict[str, Any]) -> AsyncIterator[str]:
    """Run the services; yield the gateway's address."""
    certs = tour.state / "certs"
    where = {name: free("127.0.0.1:0") for name in _SERVICES}
    environment = os.environ | {f"SHOP_{name.upper()}": where[name] for name in _SERVICES}
    environment |= {
        "SHOP_AUTHSVC": tour.target,
        "SHOP_ISSUER": config["tokens"]["issuer"],
        "SHOP_CERTS": str(certs.absolute()),
    }
    files = [file for name in _SERVICES for file in _issue(certs, name)]
    processes = []
    try:
        for name in _SERVICES:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", f"deploy.examples.shop.{name}"),
                cwd=_REPOSITORY,
                env=environment,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            processes.append(process)
        for name, process in zip(_SERVICES, processes, strict=True):
            assert process.stdout and process.stderr  # noqa: PT018, S101 - both are pipes
            if not await process.stdout.readline():
                said = (await process.stderr.read()).decode().strip().splitlines()
                tour.fail(f"the service {name}", said[-1] if said else "ended")
        yield f"http://{where['gateway']}"
    finally:
        for process in processes:
            if process.returncode is None:
                process.terminate()
        for process in processes:
            await process.communicate()
        for file in files:
            file.unlink(missing_ok=True)


def _identity(name: str) -> str:
    return f"spiffe://{certificates.TRUST_DOMAIN}/shop-{name}"


def _issue(folder: Path, name: str) -> tuple[Path, Path]:
    """Issue a service's certificate, with which it serves and calls."""
    return certificates.issue(
        folder,
        f"shop-{name}",
        uris=[_identity(name)],
        dns=["localhost"],
        ips=["127.0.0.1"],
        server=True,
    )


async def _calls(tour: Tour) -> dict[str, float] | None:
    """Return how many calls authsvc has answered, by RPC; None if nobody knows its HTTP port."""
    address = dialled(addresses(tour.state)["http"])
    if address.endswith(":0"):
        return None
    await asyncio.sleep(_METRICS_AGE)
    url = f"http://{address}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        text = await response.text()
    calls: dict[str, float] = {}
    for name, count in _CALLS.findall(text):
        calls[name] = calls.get(name, 0.0) + float(count)
    return calls
