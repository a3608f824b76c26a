"""Many checks in one call are each decided, and charged exactly once."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authsvc.client import AsyncRateLimiter, RateLimiter
from authsvc.client.errors import AuthsvcError, FieldInvalid, PolicyUnknown
from authsvc.v1.rate_limit_service_pb2 import Charge, CheckRateLimitResponse, GetRateLimitRequest
from tests.support.clients import OpenAsync, OpenSync
from tests.support.service import Service

Check = Callable[[str, str], CheckRateLimitResponse | Awaitable[CheckRateLimitResponse]]
# Policies as shipped: "login" allows five, and "api" a hundred.
LOGIN, API = "login", "api"


async def remaining(service: Service, policy: str, key: str) -> int:
    request = GetRateLimitRequest(policy=policy, key=key)
    return (await service.limits("edge").GetRateLimit(request)).verdict.remaining


async def test_limit_holds_among_tasks(service: Service, open_async: OpenAsync) -> None:
    limiter = AsyncRateLimiter(open_async(service.app.grpc_port, "edge"))
    checks = await asyncio.gather(*(limiter.check(LOGIN, "ada") for _ in range(60)))
    assert [each.allowed for each in checks].count(True) == 5
    assert all(each.verdicts[0].key == "ada" for each in checks)


async def test_limit_holds_among_threads(service: Service, open_sync: OpenSync) -> None:
    limiter = RateLimiter(open_sync(service.app.grpc_port, "edge"))

    def all_at_once() -> list[bool]:
        with ThreadPoolExecutor(32) as threads:
            checks = threads.map(lambda _: limiter.check(LOGIN, "ada"), range(60))
            return [each.allowed for each in checks]

    assert (await asyncio.to_thread(all_at_once)).count(True) == 5


async def test_charges_are_taken_all_or_none(service: Service, open_async: OpenAsync) -> None:
    limiter = AsyncRateLimiter(open_async(service.app.grpc_port, "edge"))
    charges = [Charge(policy=LOGIN, key="ada", cost=3), Charge(policy=API, key="ada", cost=3)]
    looked, *taken = [
        await limiter.check_all(charges, dry_run=dry_run) for dry_run in (True, False, False)
    ]
    assert [looked.allowed, *(each.allowed for each in taken)] == [True, True, False]
    assert await remaining(service, LOGIN, "ada") == 2
    assert await remaining(service, API, "ada") == 97


GOOD, UNKNOWN, TOO_LONG = "good", "unknown", "too long"
RAISED = {GOOD: type(None), UNKNOWN: PolicyUnknown, TOO_LONG: FieldInvalid}


@pytest.mark.parametrize("twin", ["tasks", "threads"])
async def test_invalid_checks_fail_alone_and_the_others_are_charged_once(
    twin: str, service: Service, open_async: OpenAsync, open_sync: OpenSync
) -> None:
    port = service.app.grpc_port
    tasks = AsyncRateLimiter(open_async(port, "edge"))
    threaded = RateLimiter(open_sync(port, "edge"))

    async def outcomes(kinds: list[str], round_: int) -> list[object]:
        policies = [UNKNOWN if kind == UNKNOWN else API for kind in kinds]
        keys = [f"{round_}" * 600 if kind == TOO_LONG else f"key-{round_}" for kind in kinds]
        if twin == "tasks":
            jobs = map(tasks.check, policies, keys)
            return list(await asyncio.gather(*jobs, return_exceptions=True))

        def check(policy: str, key: str) -> object:
            try:
                return threaded.check(policy, key)
            except AuthsvcError as error:
                return error

        def all_at_once() -> list[object]:
            with ThreadPoolExecutor(32) as threads:
                return list(threads.map(check, policies, keys))

        return await asyncio.to_thread(all_at_once)

    rounds = iter(range(1_000))
    loop = asyncio.get_running_loop()

    @settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.sampled_from([GOOD, GOOD, GOOD, UNKNOWN, TOO_LONG]), max_size=40))
    def holds(kinds: list[str]) -> None:
        number = next(rounds)
        job = asyncio.run_coroutine_threadsafe(outcomes(kinds, number), loop)
        found = job.result(60)
        for kind, each in zip(kinds, found, strict=True):
            if kind == GOOD:
                assert isinstance(each, CheckRateLimitResponse)
                assert each.allowed
            else:
                assert isinstance(each, RAISED[kind])
        left = asyncio.run_coroutine_threadsafe(remaining(service, API, f"key-{number}"), loop)
        assert left.result(60) == 100 - kinds.count(GOOD)

    await asyncio.to_thread(holds)
