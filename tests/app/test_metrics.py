"""Each metric moves when what it measures happens, in the real service, and stays harmless."""

import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest_asyncio
from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from authsvc.app.metrics import SECTIONS
from authsvc.app.metrics.table import Kind, Metric, MetricTable
from authsvc.config import NamedPolicySettings, PolicySettings, Settings
from authsvc.core.lib.clock import SystemClock
from authsvc.core.lib.decisions import MAX_NAMED
from authsvc.core.limits.limiter import policies_from
from authsvc.errors import StoreUnavailable
from authsvc.v1 import admin_service_pb2 as admin_pb
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1 import rate_limit_service_pb2 as limit_pb
from authsvc.v1.common_pb2 import ClientContext
from authsvc.v1.session_service_pb2 import RevokeSessionRequest
from tests.support.accounts import EMAIL, PASSWORD, WRONG, unlimited
from tests.support.clock import FakeClock
from tests.support.databases import until
from tests.support.oauth_requests import came_back, oauth_settings
from tests.support.probe import outcome
from tests.support.provider import LocalProvider, serving
from tests.support.service import Service, StartService
from tests.support.ways import Victim, affordable, attempt

TABLE: Mapping[str, Metric[Any]] = {
    metric.name: metric for _, metrics in SECTIONS for metric in metrics
}
# Only with settings that the fixtures don't have.
CONDITIONAL = {
    "authsvc_http_tls_certificate_expire_time_seconds",
    "authsvc_http_tls_certificate_issue_time_seconds",
    "authsvc_http_tls_reload_failed",
    "authsvc_breached_password_requests",
    "authsvc_breached_password_failures",
    "authsvc_breached_passwords_refused",
    "authsvc_audit_events_forwarded_total",
    "authsvc_audit_forward_lag_seconds",
    "authsvc_clock_skew_seconds",
    # Those of telemetry are in tests/telemetry/test_exporter.py.
    "authsvc_telemetry_spans_total",
    "authsvc_telemetry_spans_waiting",
    "authsvc_telemetry_failures_total",
    "authsvc_telemetry_traces_limited_total",
}
IP = "198.51.100.7"
ONE_AN_HOUR = PolicySettings(requests=1, window=timedelta(hours=1))


def text(service: Service) -> str:
    """Return what a scrape reads."""
    return service.app.web._metrics.render().decode()


def families(service: Service) -> Mapping[str, Family]:
    """Return what a scrape reads, by the names in queries."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in text_string_to_metric_families(text(service))
    }


def value(service: Service, name: str, **labels: str) -> float:
    found = service.app.web._metrics.registry.get_sample_value(f"authsvc_{name}", labels)
    assert found is not None, (name, labels)
    return found


def counted(service: Service, name: str) -> Mapping[tuple[str, ...], float]:
    """Return the samples of a metric that are not 0, by the values of their labels."""
    family = families(service)[f"authsvc_{name}"]
    samples = {
        tuple(sample.labels[label] for label in TABLE[f"authsvc_{name}"].labels): sample.value
        for sample in family.samples
    }
    return {labels: number for labels, number in samples.items() if number}


async def test_table_and_scrape_have_the_same_metrics(timed: Service) -> None:
    await timed.new_session()
    scraped = families(timed)
    own = {name for name in scraped if name.startswith("authsvc_")}
    assert own - TABLE.keys() == set()
    assert TABLE.keys() - own <= CONDITIONAL
    for name in own:
        metric, family = TABLE[name], scraped[name]
        assert (family.documentation, family.type) == (metric.meaning, metric.kind)
        for sample in family.samples:
            assert {*sample.labels} - {"le"} == {*metric.labels}, sample


def test_names_follow_the_conventions() -> None:
    assert len(TABLE) == sum(len(metrics) for _, metrics in SECTIONS)
    for name, metric in TABLE.items():
        assert re.fullmatch(r"authsvc_[a-z_]+", name)
        assert name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert metric.meaning.endswith(".")
        assert not metric.worry or metric.worry.endswith(".")


def test_metric_that_cannot_be_read_does_not_cost_the_others() -> None:
    def unavailable(_: None) -> float:
        raise StoreUnavailable

    def broken(_: None) -> float:
        raise KeyError("a bug")

    def metric(name: str, read: Any) -> Metric[None]:
        return Metric(
            name=name,
            kind=Kind.GAUGE,
            fleet=TABLE["authsvc_pool_max"].fleet,
            meaning=".",
            read=read,
        )

    reads = {"a": unavailable, "b": broken, "c": lambda _: None, "d": lambda _: 1.0}
    table = MetricTable([metric(*each) for each in reads.items()], None)
    with capture_logs() as logs:
        for _ in range(2):
            assert [family.name for family in table.collect()] == ["d"]
    # A bug is logged, once.
    assert [(entry["event"], entry["metric"]) for entry in logs] == [("metric_not_read", "b")]
    assert [family.name for family in table.describe()] == [*reads]


# Logins


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[LocalProvider]:
    """A listening provider, on the machine's clock."""
    async with serving(LocalProvider(SystemClock())) as provider:
        yield provider


async def test_logins_are_counted_by_method_and_outcome(
    start_service: StartService, live_settings: Settings, provider: LocalProvider
) -> None:
    settings = affordable(
        live_settings, oauth=oauth_settings(provider), brute_force=unlimited(per_ip=ONE_AN_HOUR)
    )
    service = await start_service(settings)
    victim = await (await (await Victim(service, EMAIL).register()).add_passkey()).add_totp()
    # Its registration, and the beginning of what waits for a second factor.
    assert counted(service, "logins_total") == {
        ("password", "succeeded"): 1,
        ("password", "second_factor_required"): 1,
    }
    for way in ("password", "login code", "passkey", "second factor"):
        await attempt(way, victim)
    for way in ("login code", "passkey"):
        assert await attempt(way, victim, right=True) == "OK"
    begun = await service.auth().Login(pb.LoginRequest(email=EMAIL, password=PASSWORD))
    signed = json.dumps(victim.device.get(begun.mfa.passkey_options_json))
    await service.auth().VerifyMfa(
        pb.VerifyMfaRequest(mfa_token=begun.mfa.mfa_token, passkey_assertion=signed)
    )
    await service.create_session(victim.tokens.user_id)
    assert await outcome(service.create_session(str(uuid4()))) == "USER_NOT_FOUND"
    await service.auth().CompleteOAuth(await came_back(service))
    unknown = pb.CompleteOAuthRequest(state="state", code="code")
    assert await outcome(service.auth().CompleteOAuth(unknown)) == "STATE_INVALID"
    for _ in range(2):
        last = await attempt("password", victim, ip=IP)
    assert last == "TOO_MANY_ATTEMPTS"
    # Not even a login.
    assert await outcome(service.login("not an address")) == "EMAIL_INVALID"
    assert counted(service, "logins_total") == {
        ("password", "succeeded"): 1,
        ("password", "second_factor_required"): 2,
        ("password", "failed"): 2,
        ("password", "throttled"): 1,
        ("code", "failed"): 1,
        ("code", "second_factor_required"): 1,
        ("passkey", "failed"): 1,
        ("passkey", "succeeded"): 1,
        ("second_factor", "failed"): 1,
        ("second_factor", "succeeded"): 1,
        ("issued", "succeeded"): 1,
        ("issued", "failed"): 1,
        ("federated", "succeeded"): 1,
        ("federated", "failed"): 1,
    }
    # What the service itself limits is counted with the policies of others.
    decisions = counted(service, "rate_limit_decisions_total")
    assert decisions["authsvc.login.ip", "refused"] == 1
    assert decisions["authsvc.login.ip", "allowed"] == 1
    # Each login was hashed, and looked something up.
    assert value(service, "hash_queue_seconds_count") >= 5
    assert value(service, "pool_wait_seconds_count") >= 20
    assert value(service, "event_loop_lag_seconds_count") > 0


# Limits


def charge(policy: str, key: str = "k", cost: int = 1) -> limit_pb.Charge:
    return limit_pb.Charge(policy=policy, key=key, cost=cost)


def check(*charges: limit_pb.Charge, dry_run: bool = False) -> limit_pb.CheckRateLimitRequest:
    return limit_pb.CheckRateLimitRequest(charges=charges, dry_run=dry_run)


async def test_decisions_are_counted_by_policy_and_outcome(
    start_service: StartService, live_settings: Settings
) -> None:
    hour = {"window": timedelta(hours=1)}
    policies = {
        "two": NamedPolicySettings(requests=2, **hour),
        "many": NamedPolicySettings(requests=1_000, **hour),
        "shade": NamedPolicySettings(requests=1, shadow=True, **hour),
        "none": NamedPolicySettings(requests=0, **hour),
        "free": NamedPolicySettings(requests=1, unlimited=True, **hour),
    }
    limits = live_settings.rate_limits.model_copy(update={"policies": policies})
    service = await start_service(live_settings.model_copy(update={"rate_limits": limits}))
    # The last one is known from memory to be refused.
    for _ in range(4):
        await service.limits().CheckRateLimit(check(charge("two")))
    for name, times in (("shade", 3), ("none", 2), ("free", 2)):
        for _ in range(times):
            await service.limits().CheckRateLimit(check(charge(name)))
    # All or none: neither is taken, and only one did not fit.
    await service.limits().CheckRateLimit(check(charge("two"), charge("many")))
    for name in policies:
        await service.limits().CheckRateLimit(check(charge(name), dry_run=True))
    expected = {
        ("two", "allowed"): 2,
        ("two", "refused"): 3,
        ("shade", "allowed"): 1,
        ("shade", "shadow"): 2,
        ("none", "refused"): 2,
        ("free", "allowed"): 2,
    }
    assert counted(service, "rate_limit_decisions_total") == expected
    # Equal charges of a key, distinct keys, different costs, several charges, a dry run: one batch.
    checks = [check(charge("two", "batch"))] * 5
    checks += [check(charge("many", f"key-{number}")) for number in range(100)]
    checks += [check(charge("many", "cost", cost)) for cost in (1, 2, 999)]
    checks += [check(charge("many", "b"), charge("two", "b")), check(charge("shade", "c"))] * 2
    checks += [check(charge("none")), check(charge("free")), check(charge("two"))]
    checks += [check(charge("many", "dry"), dry_run=True)]
    await service.limits().BatchCheckRateLimits(limit_pb.BatchCheckRateLimitsRequest(checks=checks))
    more = {
        ("two", "allowed"): 2 + 2,
        ("two", "refused"): 3 + 1,
        ("many", "allowed"): 100 + 2 + 2,
        ("many", "refused"): 1,
        ("shade", "allowed"): 1,
        ("shade", "shadow"): 1,
        ("none", "refused"): 1,
        ("free", "allowed"): 1,
    }
    assert counted(service, "rate_limit_decisions_total") == {
        labels: expected.get(labels, 0) + more.get(labels, 0) for labels in {*expected, *more}
    }
    assert counted(service, "rate_limit_shadow_rejections_total") == {("shade",): 3}
    # A refusal can be seen to increase, as it is there before the first.
    assert value(service, "rate_limit_decisions_total", policy="free", outcome="refused") == 0


async def test_scrape_with_a_thousand_policies_is_cheap(service: Service) -> None:
    policies = policies_from(
        {
            f"policy-{number:04}": NamedPolicySettings(requests=1, window=timedelta(hours=1))
            for number in range(MAX_NAMED + 100)
        }
    )
    service.app._parts.use.rate_limiter.replace_policies(policies)
    key = f"user:{uuid4()}"
    for number in (0, MAX_NAMED, MAX_NAMED + 1):
        await service.limits().CheckRateLimit(check(charge(f"policy-{number:04}", key)))
    assert counted(service, "rate_limit_decisions_total") == {
        ("policy-0000", "allowed"): 1,
        ("other", "allowed"): 2,
    }
    assert key not in text(service)

    def cpu() -> float:
        began = time.thread_time()
        service.app.web._metrics.render()
        return time.thread_time() - began

    # What a scrape costs, not how long it waits for others on this machine; the least of some.
    assert min(cpu() for _ in range(10)) < 0.05


# Saturation


async def test_pool_is_measured(service: Service) -> None:
    database = service.app._parts.database
    most = value(service, "pool_max")
    assert most == service.settings.database.pool_max
    async with database.connection(), database.connection():
        assert value(service, "pool_connections", state="in_use") >= 2
        connections = [
            value(service, "pool_connections", state=each) for each in ("idle", "in_use")
        ]
        assert sum(connections) <= most
    assert value(service, "pool_waiting") >= 0


# Revocations and keys


async def test_revocation_delay_is_measured(service: Service) -> None:
    tokens = await service.new_session()
    before = value(service, "revocation_delay_seconds_count")
    await service.sessions().RevokeSession(RevokeSessionRequest(session_id=tokens.session_id))

    async def known() -> bool:
        return value(service, "revocation_delay_seconds_count") > before

    await until(known)
    assert value(service, "revocation_delay_seconds_sum") > 0


async def test_keys_age_until_they_are_replaced(timed: Service, clock: FakeClock) -> None:
    names = ("signing_key_age_seconds", "keyring_age_seconds", "pepper_age_seconds")
    assert [value(timed, name) for name in names] == [0, 0, 0]
    interval = timed.settings.tokens.key_rotation_interval
    assert value(timed, "signing_key_rotate_after_seconds") == interval.total_seconds()
    clock.advance(timedelta(days=1))
    assert [value(timed, name) for name in names] == [86_400] * 3
    await timed.admin().RotateSigningKey(admin_pb.RotateSigningKeyRequest(now=True))
    assert [value(timed, name) for name in names] == [0, 86_400, 86_400]
    # While no key can sign, there is none that has an age.
    timed.app._parts.use.signing_keys._install(type(timed.app._parts.use.signing_keys._keys)())
    assert "authsvc_signing_key_age_seconds " not in text(timed)
    assert "authsvc_keyring_age_seconds 86400.0" in text(timed)


# What anybody could do with them


async def test_hostile_values_appear_nowhere_and_add_no_series(service: Service) -> None:
    await service.new_session()
    edge, auth = service.limits("edge"), service.auth()

    def hostile() -> str:
        return f"hostile-{uuid4().hex}"

    async def everything() -> None:
        """Send a value that nobody knows wherever one can be sent that is chosen by somebody."""
        ip = f"203.0.113.{uuid4().int % 250}"
        client = ClientContext(ip=ip, user_agent=hostile(), device_id=hostile())
        email = f"{hostile()}@example.test"
        unknown: Any = service.clients.channel("app").unary_unary(f"/authsvc.v1.X/{hostile()}")
        calls: list[Awaitable[object]] = [
            auth.Login(pb.LoginRequest(email=email, password=WRONG, client=client)),
            auth.Login(pb.LoginRequest(email=EMAIL, password=hostile(), client=client)),
            auth.Register(pb.RegisterRequest(email=email, password=PASSWORD, client=client)),
            auth.BeginOAuth(
                pb.BeginOAuthRequest(provider=hostile(), redirect_uri="https://a.test")
            ),
            auth.ValidateToken(pb.ValidateTokenRequest(access_token=hostile())),
            auth.ValidateApiKey(pb.ValidateApiKeyRequest(api_key=hostile())),
            auth.VerifyMfa(pb.VerifyMfaRequest(mfa_token=hostile(), totp_code="123456")),
            edge.CheckRateLimit(check(charge(hostile()))),
            edge.CheckRateLimit(check(charge("login", hostile()))),
            edge.ScreenRequest(limit_pb.ScreenRequestRequest(ip=ip, policy=hostile())),
            edge.ScreenRequest(limit_pb.ScreenRequestRequest(ip=ip, policy="login")),
            unknown(b""),
        ]
        for call in calls:
            await outcome(call)

    await everything()
    before = series(service)
    for _ in range(3):
        await everything()
    assert series(service) == before
    assert not re.search(r"hostile|203\.0\.113|@|spiffe", text(service))


def series(service: Service) -> set[tuple[str, str]]:
    return {
        (sample.name, str(sorted(sample.labels.items())))
        for family in families(service).values()
        for sample in family.samples
    }
