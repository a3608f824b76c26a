"""The HTTP port: public keys, discovery, metrics and probes."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
import asyncpg
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from joserfc import jwt
from joserfc.jwk import KeySet
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from structlog.testing import capture_logs

from authsvc.config import Settings
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.metrics import Metrics
from authsvc.store.postgres.migrator import migrate
from authsvc.v1.auth_service_pb2 import GetJwksRequest, LoginRequest
from authsvc.v1.session_service_pb2 import ListSessionsRequest
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.databases import freeze, kill, resume
from tests.support.probe import failure, outcome, reason_of, with_changes
from tests.support.service import Service, StartService, detail

PATHS = (
    "/.well-known/jwks.json",
    "/.well-known/openid-configuration",
    "/.well-known/webauthn",
    "/metrics",
    "/livez",
    "/readyz",
)
NOBODY = "00000000-0000-7000-8000-000000000001"
# Only so that a failing test ends; nothing is measured by it.
PATIENCE = 30.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Any
    text: str


class Browser:
    """Sends requests to the HTTP port of a service."""

    def __init__(self, session: aiohttp.ClientSession, service: Service) -> None:
        self._session = session
        self._base = f"http://127.0.0.1:{service.app.http_port}"

    async def __call__(self, path: str, method: str = "GET", **more: Any) -> Answer:
        async with self._session.request(method, self._base + path, **more) as response:
            return Answer(response.status, response.headers, await response.text())

    async def until(self, path: str, status: int) -> None:
        """Wait until a path returns this status."""
        async with asyncio.timeout(PATIENCE):
            while (await self(path)).status != status:  # noqa: ASYNC110 - HTTP has no event for it
                await asyncio.sleep(0.02)


@pytest_asyncio.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest_asyncio.fixture
async def get(http: aiohttp.ClientSession, service: Service) -> Browser:
    return Browser(http, service)


# Public keys and discovery


@pytest.mark.fast
async def test_tokens_verify_with_published_keys(get: Browser, service: Service) -> None:
    answer = await get("/.well-known/jwks.json")
    assert answer.headers["Content-Type"].startswith("application/jwk-set+json")
    tokens = await service.new_session()
    keys = KeySet.import_key_set(json.loads(answer.text))
    assert jwt.decode(tokens.access_token, keys, ["ES256"]).claims["sub"] == tokens.user_id
    response = await service.auth().GetJwks(GetJwksRequest())
    assert json.loads(response.jwks_json) == json.loads(answer.text)
    public, _, age = answer.headers["Cache-Control"].partition(", max-age=")
    left = response.expire_time.ToDatetime(UTC) - datetime.now(UTC)
    assert public == "public"
    # At most half of tokens.key_publish_lead, of 1 h, and five minutes.
    assert 290 < int(age) <= 300
    # By the clocks of two machines.
    assert 0 < left.total_seconds() <= 360


async def test_discovery_document_points_to_keys(
    http: aiohttp.ClientSession, start_service: StartService, live_settings: Settings
) -> None:
    issuer = "https://login.example.test/"
    service = await start_service(with_changes(live_settings, "tokens", issuer=issuer))
    answer = await Browser(http, service)("/.well-known/openid-configuration")
    found = json.loads(answer.text)
    # Verifiers compare it as a string (OpenID Connect Discovery, 4.3).
    assert found["issuer"] == issuer
    assert found["jwks_uri"] == "https://login.example.test/.well-known/jwks.json"
    assert found["id_token_signing_alg_values_supported"] == ["ES256"]
    # It names the algorithms of the keys, so it is cached for as long.
    assert re.fullmatch(r"public, max-age=(29\d|300)", answer.headers["Cache-Control"])


async def test_related_origins_are_served(
    http: aiohttp.ClientSession, start_service: StartService, live_settings: Settings
) -> None:
    related = ["https://shop.example", "https://shop.example.de:8443"]
    settings = with_changes(live_settings, "passkeys", related_origins=related)
    answer = await Browser(http, await start_service(settings))("/.well-known/webauthn")
    assert (answer.status, json.loads(answer.text)) == (200, {"origins": related})
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["Cache-Control"] == "public, max-age=3600"


async def test_no_origins_are_related_by_default(get: Browser) -> None:
    answer = await get("/.well-known/webauthn")
    assert (answer.status, json.loads(answer.text)) == (200, {"origins": []})


# Metrics


def names(text: str) -> set[str]:
    return {family.name for family in text_string_to_metric_families(text)}


async def test_calls_are_counted(get: Browser, service: Service) -> None:
    await service.new_session()
    request = LoginRequest(email=EMAIL, password="Difference-Engine-1822")
    assert await outcome(service.auth().Login(request)) == "CREDENTIALS_INVALID"
    answer = await get("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    counted = {
        (sample.labels["code"], sample.labels["reason"]): sample.value
        for sample in families["authsvc_rpc_calls"].samples
        if sample.labels["method"] == "/authsvc.v1.AuthService/Login"
    }
    assert counted == {("OK", ""): 1, ("UNAUTHENTICATED", "CREDENTIALS_INVALID"): 1}
    for name in (
        "authsvc_rpc_duration_seconds",
        "authsvc_revocation_listener_up",
        "process_open_fds",
    ):
        assert families[name].samples
    for private in (EMAIL, EMAIL.lower(), PASSWORD, "spiffe"):
        assert private not in answer.text


async def test_metrics_are_openmetrics_for_those_who_accept_it(get: Browser) -> None:
    # What Prometheus 3 sends by default, shortened.
    accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3"
    answer = await get("/metrics", headers={"Accept": accept})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    plain = await get("/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain")
    assert "# EOF" not in plain.text


async def test_metrics_are_rendered_once_for_all_and_beside_the_loop(
    get: Browser, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = service.app.web._metrics
    render, released, times = metrics.render, threading.Event(), 0

    def slow(*, openmetrics: bool) -> bytes:
        nonlocal times
        times += 1
        assert released.wait(PATIENCE)
        return render(openmetrics=openmetrics)

    monkeypatch.setattr(metrics, "render", slow)
    scrapes = [asyncio.create_task(get("/metrics")) for _ in range(12)]
    # The loop still serves others, and one client that gives up doesn't end the others' wait.
    assert (await get("/livez")).status == 200
    scrapes.pop().cancel()
    assert (await get("/livez")).status == 200
    released.set()
    assert {(await scrape).status for scrape in scrapes} == {200}
    assert times < len(scrapes)


# Probes and other requests


@pytest.mark.fast
async def test_probes_return_short_response(get: Browser) -> None:
    for path in ("/livez", "/readyz"):
        answer = await get(path)
        assert (answer.status, answer.text) == (200, "ok\n")


@pytest.mark.parametrize("path", [*PATHS, "/", "/nothing", "/.well-known/../metrics/x"])
async def test_responses_disable_content_sniffing(path: str, get: Browser) -> None:
    answer = await get(path)
    assert answer.status == (200 if path in PATHS else 404)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", PATHS)
async def test_modifying_methods_are_rejected(path: str, get: Browser) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = await get(path, method, data=b"x" * 2_000)
        assert answer.status == 405
    assert (await get(path, "HEAD")).text == ""


@pytest.mark.parametrize("path", PATHS[:2] + PATHS[3:4])
async def test_unexpected_failures_reveal_nothing(
    path: str, get: Browser, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Analytical-Engine-1843")

    monkeypatch.setattr(SigningKeys, "jwks", fail)
    monkeypatch.setattr(Metrics, "render", fail)
    with capture_logs() as logs:
        answer = await get(path)
    assert (answer.status, answer.text) == (500, "An internal error occurred.\n")
    assert "Analytical" not in repr(answer.headers)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    [line] = [line for line in logs if line["log_level"] == "error"]
    assert (line["event"], line["path"]) == ("http_request_failed", path)
    assert line["request_id"] == answer.headers["X-Request-Id"]
    assert line["exc_info"]


async def test_long_requests_are_rejected(get: Browser) -> None:
    assert (await get("/livez?" + "x" * 10_000)).status == 400
    assert (await get("/livez", headers={"X-Long": "x" * 10_000})).status == 400
    assert (await get("/livez")).status == 200


# Readiness


async def test_service_is_not_ready_while_postgresql_is_down(
    own_server: EmbeddedPostgres,
    settings: Settings,
    start_service: StartService,
    http: aiohttp.ClientSession,
) -> None:
    dsn = own_server.dsn()
    await migrate(dsn)
    service = await start_service(with_changes(settings, "database", url=SecretStr(dsn)))
    get = Browser(http, service)
    health = health_pb2_grpc.HealthStub(service.clients.channel("edge"))

    async def serving() -> bool:
        response = await health.Check(health_pb2.HealthCheckRequest())
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    tokens = await service.new_session()
    assert await serving()
    before = names(service.app.web._metrics.render().decode())
    assert "authsvc_pool_wait_seconds" in before
    kill(own_server)
    await get.until("/readyz", 503)
    assert (await get("/readyz")).text.startswith("not ready: database: ")
    assert not await serving()
    # A restart would not help, and verifiers can still fetch the keys.
    assert (await get("/livez")).status == 200
    assert (await get("/.well-known/jwks.json")).status == 200
    scraped = await get("/metrics")
    assert "\nauthsvc_database_up 0.0\n" in scraped.text
    # Nothing is missing: no metric needs the database.
    assert names(scraped.text) == before
    error = await failure(service.sessions().ListSessions(ListSessionsRequest(user_id=NOBODY)))
    assert reason_of(error) == "STORE_UNAVAILABLE"
    assert detail(error, RetryInfo).retry_delay.ToMilliseconds() > 0

    await asyncio.to_thread(own_server.start)
    await get.until("/readyz", 200)
    assert await serving()
    assert await service.judge_session(tokens.session_token) == ""
    assert (await service.login()).user_id == tokens.user_id


async def test_service_is_not_ready_while_postgresql_is_silent(
    own_server: EmbeddedPostgres,
    settings: Settings,
    start_service: StartService,
    http: aiohttp.ClientSession,
) -> None:
    dsn = own_server.dsn()
    await migrate(dsn)
    # Short, but long enough for a busy machine.
    quick = {"connect_timeout": "2s", "acquire_timeout": "1s", "command_timeout": "1s"}
    database = type(settings.database).model_validate({"url": SecretStr(dsn)} | quick)
    service = await start_service(settings.model_copy(update={"database": database}))
    get = Browser(http, service)
    await get.until("/readyz", 200)
    freeze(own_server)
    await get.until("/readyz", 503)
    assert (await get("/livez")).status == 200
    resume(own_server)
    await get.until("/readyz", 200)


async def test_service_is_not_ready_while_it_drains(get: Browser, service: Service) -> None:
    await service.register()
    connection = await asyncpg.connect(service.settings.database.url.get_secret_value())
    async with connection.transaction():
        await connection.execute("LOCK TABLE users")
        login = asyncio.create_task(service.login())
        async with asyncio.timeout(PATIENCE):
            waiting = "SELECT 1 FROM pg_locks WHERE NOT granted"
            while not await connection.fetchval(waiting):  # noqa: ASYNC110 - a lock wakes nobody
                await asyncio.sleep(0.01)
        stop = asyncio.create_task(service.app.stop())
        await get.until("/readyz", 503)
        assert not login.done()
        assert not stop.done()
    assert (await login).access_token
    await stop
    await connection.close()
