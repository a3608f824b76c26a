"""RateLimitService from its callers' side: the whole application, over mutual TLS."""

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from authsvc.config import PolicySettings, Settings
from authsvc.models.limits import Algorithm
from authsvc.v1 import rate_limit_service_pb2 as pb
from tests.support.probe import failure, outcome, reason_of, with_changes
from tests.support.service import Service, StartService, detail, fields_of

LOGIN, UPLOAD = "login", "upload"
HOUR = timedelta(hours=1)


def request_of(*charges: tuple[str, str] | tuple[str, str, int], **more: Any) -> Any:
    """Return a check of charges, each a policy, a key and optionally a cost."""
    messages = [pb.Charge(policy=c[0], key=c[1], cost=c[2] if len(c) == 3 else 0) for c in charges]
    return pb.CheckRateLimitRequest(charges=messages, **more)


async def check(service: Service, *charges: Any, **more: Any) -> pb.CheckRateLimitResponse:
    return await service.limits("edge").CheckRateLimit(request_of(*charges, **more))


async def remaining(service: Service, policy: str, key: str) -> int:
    """Return the remaining quota of a key."""
    request = pb.GetRateLimitRequest(policy=policy, key=key)
    return (await service.limits("edge").GetRateLimit(request)).verdict.remaining


def with_policy(settings: Settings, **policy: Any) -> Settings:
    """Return the settings with an additional policy, "own", by default 3 per hour."""
    own = PolicySettings.model_validate({"requests": 3, "window": HOUR} | policy)
    return with_changes(settings, "rate_limits", policies={"own": own})


# CheckRateLimit


@pytest.mark.fast
async def test_login_policy_allows_five_and_denies_sixth(service: Service) -> None:
    answers = [await check(service, (LOGIN, "ada")) for _ in range(6)]
    assert [answer.allowed for answer in answers] == [True] * 5 + [False]
    assert [answer.verdicts[0].remaining for answer in answers] == [4, 3, 2, 1, 0, 0]
    passed, rejected = answers[0].verdicts[0], answers[5].verdicts[0]
    assert (rejected.policy, rejected.key, rejected.limit) == (LOGIN, "ada", 5)
    assert passed.allowed
    assert passed.HasField("retry_after")
    assert passed.retry_after.ToMicroseconds() == 0
    assert not rejected.allowed
    # One of five per five minutes is free again in a minute, less the time that the checks took.
    assert 0 < rejected.retry_after.ToSeconds() <= 60
    assert 240 < rejected.reset_after.ToSeconds() <= 300
    assert (await check(service, (LOGIN, "bob"))).allowed


@pytest.mark.fast
async def test_several_charges_are_atomic(service: Service) -> None:
    await check(service, (LOGIN, "ada", 5))
    answer = await check(service, (UPLOAD, "ada"), (LOGIN, "ada"), (UPLOAD, "bob", 4))
    assert not answer.allowed
    assert [verdict.allowed for verdict in answer.verdicts] == [True, False, True]
    assert [(verdict.policy, verdict.key) for verdict in answer.verdicts] == [
        *((UPLOAD, "ada"), (LOGIN, "ada"), (UPLOAD, "bob"))
    ]
    assert [verdict.remaining for verdict in answer.verdicts] == [10, 0, 10]
    assert await remaining(service, UPLOAD, "ada") == 10
    answer = await check(service, (UPLOAD, "ada"), (LOGIN, "eve"), (UPLOAD, "bob", 4))
    assert answer.allowed
    assert [verdict.remaining for verdict in answer.verdicts] == [9, 4, 6]


async def test_dry_run_charges_nothing(service: Service) -> None:
    for _ in range(3):
        answer = await check(service, (LOGIN, "ada", 5), dry_run=True)
        assert answer.allowed
    assert await remaining(service, LOGIN, "ada") == 5
    await check(service, (LOGIN, "ada", 5))
    assert not (await check(service, (LOGIN, "ada"), dry_run=True)).allowed


async def test_cost_above_limit_has_no_retry_after(service: Service) -> None:
    answer = await check(service, (LOGIN, "ada", 6))
    assert not answer.allowed
    assert not answer.verdicts[0].HasField("retry_after")
    assert await remaining(service, LOGIN, "ada") == 5


async def test_concurrent_checks_never_exceed_limit(
    start_service: StartService, live_settings: Settings
) -> None:
    settings = with_policy(live_settings, requests=30)
    replicas = [await start_service(settings), await start_service(settings)]
    answers = await asyncio.gather(
        *(check(replicas[n % 2], ("own", "k"), (UPLOAD, f"u{n % 7}")) for n in range(100))
    )
    assert sum(answer.allowed for answer in answers) == 30
    assert await remaining(replicas[0], "own", "k") == 0
    used = sum([10 - await remaining(replicas[1], UPLOAD, f"u{n}") for n in range(7)])
    assert used == 30


async def test_reset_on_another_replica_allows_rejected_key(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(live_settings)
    assert [(await check(service, (LOGIN, "ada", 5))).allowed for _ in range(3)] == [
        *(True, False, False)
    ]
    await service.limits().ResetRateLimit(pb.ResetRateLimitRequest(policy=LOGIN, key="ada"))
    assert (await check(service, (LOGIN, "ada", 5))).allowed


async def test_burst_limits_cost_allowed_at_once(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(with_policy(live_settings, requests=1_000, burst=3))
    answer = await check(service, ("own", "k", 3))
    verdict = answer.verdicts[0]
    assert (answer.allowed, verdict.remaining, verdict.limit) == (True, 0, 3)
    assert verdict.bound == pb.RATE_LIMIT_BOUND_BURST
    never = await check(service, ("own", "other", 4))
    assert not never.allowed
    assert not never.verdicts[0].HasField("retry_after")


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_every_algorithm_enforces_limit(
    algorithm: Algorithm, start_service: StartService, live_settings: Settings
) -> None:
    settings = with_policy(live_settings, algorithm=algorithm, window=timedelta(days=300))
    service = await start_service(settings)
    answers = [await check(service, ("own", "k")) for _ in range(4)]
    assert [answer.allowed for answer in answers] == [True] * 3 + [False]
    assert answers[3].verdicts[0].retry_after.ToSeconds() > 0


async def test_policies_can_change_at_runtime(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(live_settings)
    assert await outcome(check(service, ("own", "k"))) == "POLICY_UNKNOWN"
    service.app.reload(with_policy(live_settings))
    answers = [await check(service, ("own", "k")) for _ in range(4)]
    assert [answer.allowed for answer in answers] == [True] * 3 + [False]
    service.app.reload(with_policy(live_settings, requests=30))
    assert (await check(service, ("own", "k"))).allowed
    service.app.reload(live_settings)
    assert await outcome(check(service, ("own", "k"))) == "POLICY_UNKNOWN"


BAD_CHECKS: dict[str, list[tuple[str, str] | tuple[str, str, int]]] = {
    "charges": [],
    "charges[0].policy": [("", "k")],
    "charges[1].policy": [(LOGIN, "k"), ("No such", "k")],
    "charges[0].key": [(LOGIN, "")],
    "charges[1].key": [(LOGIN, "é" * 256), (LOGIN, "é" * 257)],
    "charges[0].cost": [(LOGIN, "k", -1)],
    "charges[1].cost": [(LOGIN, "k", 1_000_000), (UPLOAD, "k", 1_000_001)],
}


@pytest.mark.parametrize("field", BAD_CHECKS)
async def test_invalid_field_is_named(field: str, service: Service) -> None:
    error = await failure(check(service, *BAD_CHECKS[field]))
    assert (error.code(), reason_of(error)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "FIELD_INVALID",
    )
    assert fields_of(error) == [field]


async def test_check_allows_at_most_sixteen_distinct_charges(service: Service) -> None:
    charges = [(LOGIN, f"k{n}") for n in range(17)]
    assert (await check(service, *charges[:16])).allowed
    for bad in (charges, [charges[0], charges[1], charges[0]]):
        error = await failure(check(service, *bad))
        assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", ["charges"])
    assert await remaining(service, LOGIN, "k16") == 5


async def test_unknown_policy_is_named_and_nothing_is_charged(service: Service) -> None:
    error = await failure(check(service, (LOGIN, "ada"), ("nope", "ada")))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.NOT_FOUND, "POLICY_UNKNOWN")
    assert dict(detail(error, ErrorInfo).metadata) == {"policy": "nope"}
    assert await remaining(service, LOGIN, "ada") == 5
    # Callers can neither use up nor reset the service's internal limits.
    own = ("authsvc.login.account", "k")
    assert await outcome(check(service, own)) == "POLICY_UNKNOWN"


async def test_compact_batch_has_no_policies_and_keys(service: Service) -> None:
    checks = [
        request_of((LOGIN, "ada", 5)),
        request_of((LOGIN, "ada", 5)),
        request_of((UPLOAD, "ada")),
    ]
    request = pb.BatchCheckRateLimitsRequest(checks=checks, compact=True)
    response = await service.limits("edge").BatchCheckRateLimits(request)
    assert [result.allowed for result in response.results] == [True, False, True]
    verdicts = [result.verdicts[0] for result in response.results]
    assert {(verdict.policy, verdict.key) for verdict in verdicts} == {("", "")}
    assert [(verdict.limit, verdict.remaining) for verdict in verdicts] == [(5, 0), (5, 0), (10, 9)]
    assert [verdict.HasField("retry_after") for verdict in verdicts] == [False, True, False]
    request.compact = False
    response = await service.limits("edge").BatchCheckRateLimits(request)
    assert [result.verdicts[0].key for result in response.results] == ["ada"] * 3


async def test_batch_allows_at_most_two_thousand_charges(service: Service) -> None:
    check = request_of(*(("api", f"key-{number}") for number in range(16)))
    limits = service.limits("edge")
    request = pb.BatchCheckRateLimitsRequest(checks=[check] * 126)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await limits.BatchCheckRateLimits(request)
    assert (reason_of(caught.value), fields_of(caught.value)) == ("FIELD_INVALID", ["checks"])
    assert await remaining(service, "api", "key-0") == 100
    del request.checks[125:]
    assert len((await limits.BatchCheckRateLimits(request)).results) == 125
