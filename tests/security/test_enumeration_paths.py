"""All ways to authenticate behave alike: none reveals an account, and guesses share their limits.

ASVS 6.3.4 and 6.3.8, SP 800-63B-4, 3.2.2; tested over mutual TLS, as callers see it.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import RequestInfo

from authsvc.config import Settings
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.account_service_pb2 import DeleteAccountRequest
from authsvc.v1.common_pb2 import DELIVERY_RETURN, ClientContext
from tests.support.accounts import unlimited
from tests.support.passkeys import allowed, bearer
from tests.support.probe import details_of, failure, outcome
from tests.support.service import Service, StartService
from tests.support.statements import Statements, on_one_connection
from tests.support.ways import (
    FAILED,
    GUESSABLE,
    PLACES,
    PORTAL,
    PUBLIC,
    UNGUESSABLE,
    WAYS,
    Victim,
    affordable,
    attempt,
)

KINDS = ("unknown", "active", "verified", "disabled", "locked", "without", "passkey", "totp")
CLIENT = ClientContext(ip="192.0.2.1", user_agent="Test")


async def make(service: Service, kind: str) -> Victim:
    """Return an account of this kind, or an address without an account."""
    victim = Victim(service, f"{kind}@example.test")
    if kind == "unknown":
        return victim
    await victim.register()
    changes = {
        "verified": "email_verify_time = now()",
        "disabled": "status = 'disabled'",
        "locked": "failed_logins = 100",
        "without": "password_hash = NULL, pepper_id = NULL",
    }
    if kind in changes:
        await service.fetch(f"UPDATE users SET {changes[kind]} WHERE email = $1", victim.email)
    if kind == "passkey":
        await victim.add_passkey()
    if kind == "totp":
        await victim.add_totp()
    return victim


@pytest_asyncio.fixture
async def free(
    statements: Statements, start_service: StartService, live_settings: Settings
) -> Service:
    """A service without limits on attempts, with all of its statements recorded."""
    settings = on_one_connection(live_settings)
    return await start_service(affordable(settings, brute_force=unlimited()))


def shown(error: grpc.aio.AioRpcError) -> tuple[Any, ...]:
    """Return everything that an error shows, except the request id."""
    details = [
        packed.SerializeToString()
        for packed in details_of(error).details
        if not packed.Is(RequestInfo.DESCRIPTOR)
    ]
    trailers = sorted(key for key, _ in error.trailing_metadata() or ())
    return error.code(), error.details(), details, trailers


@pytest.mark.parametrize("way", PUBLIC)
async def test_wrong_proof_has_same_effect_for_every_account(
    way: str, free: Service, statements: Statements
) -> None:
    victims = {kind: await make(free, kind) for kind in KINDS}
    answers, work = {}, {}
    # Once beforehand, so that whatever is cached on first use is so for every account.
    for kind in ("active", *KINDS):
        await statements.take(free)
        error = await failure(WAYS[way](victims[kind], False, CLIENT))
        answers[kind], work[kind] = shown(error), await statements.take(free)
    assert answers == dict.fromkeys(KINDS, answers["active"])
    assert work == dict.fromkeys(KINDS, work["active"])
    assert len(work["active"]) >= 4


@pytest.mark.parametrize("way", GUESSABLE)
async def test_throttled_proof_has_same_effect_for_every_account(
    way: str,
    statements: Statements,
    start_service: StartService,
    live_settings: Settings,
) -> None:
    service = await start_service(affordable(on_one_connection(live_settings)))
    answers, work = {}, {}
    for number, kind in enumerate(KINDS):
        victim = await make(service, kind)
        ends = []
        for turn in range(7):
            await statements.take(service)
            client = ClientContext(ip=f"10.1.{number}.1")
            error = await failure(WAYS[way](victim, False, client))
            # The first throttled attempt records an event.
            if turn >= 5:
                work[kind, turn] = await statements.take(service)
            ends.append((error.code(), error.details()))
        answers[kind] = ends
    assert answers == dict.fromkeys(KINDS, answers["active"])
    assert answers["active"][5][0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    for turn in (5, 6):
        found = {kind: work[kind, turn] for kind in KINDS}
        assert found == dict.fromkeys(KINDS, found["active"])


REQUESTS = {
    "RequestLoginCode": pb.RequestLoginCodeRequest,
    "RequestPasswordReset": pb.RequestPasswordResetRequest,
    "ResendVerification": pb.ResendVerificationRequest,
    "BeginPasskeyLogin": pb.BeginPasskeyLoginRequest,
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_request_has_same_response_for_every_account(
    name: str, free: Service, statements: Statements
) -> None:
    answers, work = {}, {}
    for kind in KINDS:
        await make(free, kind)
    for kind in ("active", *KINDS):
        request = REQUESTS[name](email=f"{kind}@example.test", client=CLIENT)
        if "delivery" in request.DESCRIPTOR.fields_by_name:
            request.delivery = DELIVERY_RETURN
        await statements.take(free)
        answer = await getattr(free.auth(PORTAL), name)(request)
        answers[kind], work[kind] = dict(shape(answer)), await statements.take(free)
    assert work == dict.fromkeys(KINDS, work["active"])
    assert answers == dict.fromkeys(KINDS, answers["active"])
    assert answers["active"]


def shape(answer: Any) -> Iterator[tuple[str, object]]:
    """Yield the shape of an answer, without its random content."""
    for field, value in answer.ListFields():
        if field.name == "options_json":
            options = json.loads(value)
            assert {len(one) > 20 for one in allowed(value)} == {True}
            assert {frozenset(one) for one in options.pop("allowCredentials")} == {
                frozenset({"id", "type"})
            }
            yield field.name, options | {"challenge": len(options["challenge"])}
        else:
            yield field.name, len(value)


# One set of counters


@pytest_asyncio.fixture
async def limited(start_service: StartService, live_settings: Settings) -> Service:
    """A service with the default limits on attempts."""
    return await start_service(affordable(live_settings))


@pytest.mark.parametrize("way", [way for way in WAYS if way not in UNGUESSABLE])
async def test_failures_on_one_path_throttle_all_guesses(way: str, limited: Service) -> None:
    for number, other in enumerate(WAYS):
        victim = Victim(limited, f"user{number}@example.test")
        await victim.register()
        await victim.add_passkey()
        if "second factor" in (way, other):
            await victim.add_totp()
        ip = f"10.2.{number}.1"
        ends = [await attempt(way, victim, ip=ip) for _ in range(5)]
        assert set(ends) <= FAILED, (way, ends)
        if way == other == "second factor":
            # One login allows no more than five wrong codes.
            await victim.begin_mfa()
        for right in (False, True):
            end = await attempt(other, victim, right=right, ip=ip)
            unthrottled = {"OK"} if right else FAILED
            expected = unthrottled if other in UNGUESSABLE else {"TOO_MANY_ATTEMPTS"}
            assert end in expected, (way, other, right)
        # From another network, the right proof succeeds.
        if way in PUBLIC and other == "password" and victim.seed == "":
            assert await attempt(other, victim, right=True, ip=f"10.3.{number}.1") == "OK"


async def test_failures_on_all_paths_are_summed(limited: Service) -> None:
    victim = Victim(limited, "user@example.test")
    await victim.register()
    await victim.add_passkey()
    ways = [way for way in WAYS if way != "second factor" and way not in UNGUESSABLE]
    ends = [await attempt(way, victim, ip="10.2.0.1") for way in (*ways, *UNGUESSABLE)[:5]]
    assert set(ends) <= FAILED
    ends = [await attempt(way, victim, ip="10.2.0.1") for way in ways]
    assert set(ends) == {"TOO_MANY_ATTEMPTS"}


@pytest.mark.parametrize("way", GUESSABLE)
async def test_strangers_cannot_lock_out_known_device(way: str, limited: Service) -> None:
    victim = Victim(limited, "user@example.test")
    await victim.register(device_id="phone")
    await victim.add_passkey()
    strangers = Counter([await attempt(way, victim, ip=ip, device_id="x") for ip in PLACES[:25]])
    assert strangers.pop("TOO_MANY_ATTEMPTS") == 5
    assert strangers.keys() <= FAILED
    for other in (*GUESSABLE, *UNGUESSABLE):
        if other in GUESSABLE:
            assert await attempt(other, victim, right=True, ip="10.3.0.1") == "TOO_MANY_ATTEMPTS"
        await limited.fetch("UPDATE users SET email_verify_time = NULL")
        end = await attempt(other, victim, right=True, ip="10.3.0.1", device_id="phone")
        assert end == "OK", other


async def test_strangers_get_at_most_fifty_failures_over_all_paths(free: Service) -> None:
    victim = Victim(free, "user@example.test")
    await victim.register(device_id="phone")
    await victim.add_passkey()
    ways = [way for way in WAYS if way != "second factor" and way not in UNGUESSABLE]
    ends = [
        await attempt(ways[turn % len(ways)], victim, ip=ip) for turn, ip in enumerate(PLACES[:50])
    ]
    assert set(ends) <= FAILED
    assert await failed_logins(free, victim) == 50
    # From now on, no proof is accepted except from a known device, or one that can't be guessed.
    for way in (*GUESSABLE, "password change"):
        assert await attempt(way, victim, right=True, ip="10.3.0.1") in FAILED, way
    causes = await free.fetch(
        "SELECT detail->>'cause' AS cause, count(*) FROM audit_events"
        " WHERE type = 'user.login_failure' GROUP BY 1"
    )
    assert {row["cause"]: row["count"] for row in causes}["locked"] == 5
    # Nor do wrong ones of those count.
    for way in UNGUESSABLE:
        assert await attempt(way, victim, ip="10.3.0.1") in FAILED
    assert await failed_logins(free, victim) == 50
    await free.prove(victim.tokens.user_id)
    assert await attempt("password", victim, right=True, device_id="phone") == "OK"
    for way in ("reset", "passkey"):
        assert await attempt(way, victim, right=True, ip="10.3.0.1") == "OK"


async def test_attacker_with_one_factor_gets_bounded_guesses_at_other(free: Service) -> None:
    victim = Victim(free, "user@example.test")
    await victim.register()
    await victim.add_totp()
    turns = 0
    while await outcome(victim.begin_mfa()) == "OK" and turns < 100:
        assert await attempt("second factor", victim, ip=PLACES[turns]) == "CREDENTIALS_INVALID"
        turns += 1
    assert 45 <= turns <= 50
    assert await failed_logins(free, victim) == 50


@pytest.mark.parametrize("way", PUBLIC)
async def test_account_deleted_meanwhile_acts_like_unknown_one(way: str, free: Service) -> None:
    for turn in range(4):
        victim = Victim(free, f"user{turn}@example.test")
        await victim.register()
        await victim.add_passkey()
        deletion = free.account().DeleteAccount(
            DeleteAccountRequest(), metadata=bearer(victim.tokens)
        )
        # Not so many logins that the session that deletes the account is replaced.
        attempts = [attempt(way, victim, right=True) for _ in range(4)]
        ends = await asyncio.gather(*attempts[:turn], outcome(deletion), *attempts[turn:])
        if way == "reset" and ends[turn] == "BEARER_INVALID":
            continue  # The reset came first and ended that session.
        assert set(ends) <= FAILED | {"OK"}, ends
        assert await attempt(way, victim, right=way != "passkey") in FAILED


async def failed_logins(service: Service, victim: Victim) -> int:
    [[count]] = await service.fetch(
        "SELECT failed_logins FROM users WHERE email = $1", victim.email
    )
    return int(count)


# What can't be guessed


@pytest.mark.parametrize("device", ["", "new phone"])
@pytest.mark.parametrize("way", sorted(UNGUESSABLE))
async def test_strangers_cannot_lock_out_who_has_proof_that_cannot_be_guessed(
    way: str, device: str, limited: Service
) -> None:
    victim = Victim(limited, "user@example.test")
    await victim.register()
    if way == "passkey":
        await victim.add_passkey()
    await limited.prove(victim.tokens.user_id)

    async def strangers() -> Counter[str]:
        return Counter([await attempt("password", victim, ip=ip) for ip in PLACES[:25]])

    assert (await strangers())["TOO_MANY_ATTEMPTS"] == 5
    await limited.fetch("UPDATE users SET failed_logins = 50")
    # Neither the limits over time nor the lock keep the user out, on a device never seen before.
    client: dict[str, Any] = {"ip": "10.3.0.1", "device_id": device}
    assert await attempt("password", victim, right=True, **client) == "TOO_MANY_ATTEMPTS"
    for _ in range(10):
        assert await attempt(way, victim, **client) in FAILED
    assert await attempt(way, victim, right=True, **client) == "OK"
    if way == "reset":
        # The new password is of use at once, and on a device that can be told for good.
        assert await attempt("password", victim, right=True, **client) == "OK"
        assert await failed_logins(limited, victim) == 0
    if device:
        await strangers()
        assert await attempt("password", victim, right=True, **client) == "OK"


async def test_user_with_app_gets_in_by_reset_on_new_device(limited: Service) -> None:
    victim = Victim(limited, "user@example.test")
    await victim.register()
    await victim.add_totp()
    await limited.prove(victim.tokens.user_id)
    for ip in PLACES[:25]:
        await attempt("password", victim, ip=ip)
    await limited.fetch("UPDATE users SET failed_logins = 50")
    client = ClientContext(ip="10.3.0.1", device_id="new phone")
    assert await outcome(WAYS["reset"](victim, True, client)) == "OK"
    # Somebody who reads the mail must not be able to guess codes forever.
    assert await failed_logins(limited, victim) == 50
    # A code is accepted once; the last was for the enrolment.
    await limited.fetch("UPDATE factors SET last_step = last_step - 5")
    answer: Any = await WAYS["password"](victim, True, client)
    victim.mfa_token = answer.mfa.mfa_token
    assert await outcome(WAYS["second factor"](victim, True, client)) == "OK"


@pytest.mark.parametrize("way", sorted(UNGUESSABLE))
async def test_proofs_are_limited_per_network(
    way: str, start_service: StartService, live_settings: Settings
) -> None:
    three = {"requests": 3, "window": "1h"}
    settings = affordable(live_settings, brute_force=unlimited(proofs_per_ip=three))
    service = await start_service(settings)
    victims = [await Victim(service, f"user{n}@example.test").register() for n in range(4)]
    await victims[3].add_passkey()
    # Right ones don't count.
    for _ in range(4):
        assert await attempt(way, victims[3], right=True, ip="10.3.0.1") == "OK"
    ends = [await attempt(way, victim, ip="10.3.0.1") for victim in victims]
    assert set(ends[:3]) <= FAILED
    assert ends[3] == "TOO_MANY_ATTEMPTS"
    assert await attempt("password", victims[0], right=True, ip="10.3.0.1") == "OK"
    assert await attempt(way, victims[3], right=True, ip="10.3.0.2") == "OK"
