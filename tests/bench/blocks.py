"""Owns the measurements of blocks: memory, look-ups, and how soon replicas know of them."""

import asyncio
import gc
import os
import random
import statistics
import time
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from authsvc.core.limits.ip_blocks import IpBlocks
from authsvc.v1 import admin_service_pb2 as admin
from authsvc.v1 import rate_limit_service_pb2 as limits
from authsvc.v1.admin_service_pb2_grpc import AdminServiceStub
from authsvc.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from tests.bench.processes import Target, replica

_BLOCKS = 1_000_000
_LOOK_UPS = 20_000
_ROUNDS = 50
_POLL = 0.0005


def measure_memory(version: int) -> tuple[float, float]:
    """Return the MB that a million blocks of a family take, and the µs of a look-up."""
    chosen = random.Random(7)
    kind: type[IPv4Address | IPv6Address] = IPv4Address if version == 4 else IPv6Address
    bits, length = (32, 32) if version == 4 else (128, 64)
    numbers = sorted({_random(chosen, bits, length) for _ in range(_BLOCKS)})
    asked = [
        str(kind(chosen.choice(numbers) if n % 2 else chosen.getrandbits(bits)))
        for n in range(_LOOK_UPS)
    ]
    gc.collect()
    before = _resident_mb()
    blocks = IpBlocks()
    for number in numbers:
        blocks.append(f"{kind(number)}/{length}", 4e9)
    size = _resident_mb() - before
    began = time.process_time()
    found = sum(blocks.end_of(address) > 0 for address in asked)
    took = time.process_time() - began
    if found < _LOOK_UPS / 2:
        raise RuntimeError("blocks are missing")
    return size, took / _LOOK_UPS * 1_000_000


async def measure_propagation(service: Target, folder: Path) -> list[float]:
    """Return the ms from the acknowledgement of each block until another replica refuses."""
    times = []
    async with (
        replica(folder) as other,
        service.channel("admin") as to_admin,
        other.channel("edge") as to_edge,
    ):
        operator, gateway = AdminServiceStub(to_admin), RateLimitServiceStub(to_edge)
        for number in range(_ROUNDS):
            ip = f"198.51.100.{number}"
            screened = limits.ScreenRequestRequest(ip=ip, policy="bench")
            await gateway.ScreenRequest(screened)
            await operator.BlockIp(admin.BlockIpRequest(network=ip))
            acknowledged = time.perf_counter()
            while (await gateway.ScreenRequest(screened)).allowed:  # noqa: ASYNC110 - measured
                await asyncio.sleep(_POLL)
            times.append((time.perf_counter() - acknowledged) * 1_000)
    return times


def spread(times: list[float]) -> str:
    """Return the median and the maximum of times in ms."""
    return f"p50 {statistics.median(times):.1f} ms, max {max(times):.1f} ms"


def _random(chosen: random.Random, bits: int, length: int) -> int:
    return chosen.getrandbits(length) << (bits - length)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1_000_000
