"""Envoy's jwt_authn accepts our tokens, with the keys from the service's HTTP port."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from authsvc.config import Settings
from tests.polyglot.foreign import (
    ALGORITHMS,
    ANOTHER_AUDIENCE,
    BOUND,
    Case,
    NewDatabase,
    issue_cases,
)
from tests.support.service import Service, StartService
from tests.world.tools import ENVOY

pytestmark = pytest.mark.world

# Only so that a test of an Envoy that hangs ends.
_PATIENCE = 60.0
_TYPE = "type.googleapis.com/envoy.extensions.filters"


async def test_jwt_authn_accepts_good_tokens_only(
    settings: Settings, new_database: NewDatabase, start_service: StartService, tmp_path: Path
) -> None:
    services: dict[str, Service] = {}
    cases = []
    for algorithm in ALGORITHMS:
        services[algorithm], issued = await issue_cases(
            algorithm, settings, start_service, new_database
        )
        cases += issued
    found = {}
    async with envoy(services, tmp_path) as address, aiohttp.ClientSession() as client:
        for case in cases:
            algorithm, _, _ = case.name.partition(" ")
            bearer = {"authorization": f"Bearer {case.token}"}
            async with client.get(f"{address}/{algorithm}", headers=bearer) as answer:
                found[case.name] = answer.status
        async with client.get(f"{address}/{ALGORITHMS[0]}") as answer:
            assert answer.status == 401
    assert found == {case.name: status_for(case) for case in cases}
    assert set(found.values()) == {200, 401, 403}


def status_for(case: Case) -> int:
    """Return the status of Envoy's answer to a request with a token."""
    # It knows nothing of certificates that tokens are bound to.
    if case.good or case.name.endswith(BOUND):
        return 200
    return 403 if case.name.endswith(ANOTHER_AUDIENCE) else 401


@asynccontextmanager
async def envoy(services: Mapping[str, Service], folder: Path) -> AsyncIterator[str]:
    """Run Envoy, which verifies tokens of each service under its name; yield its address."""
    program = ENVOY.bin / "envoy" / "_bin" / "envoy"
    if not ENVOY.is_installed():
        pytest.fail("envoy is missing: run `python -m tests.world.install`")
    config, admin = folder / "envoy.json", folder / "admin.txt"
    config.write_text(json.dumps(bootstrap(services)))
    log = folder / "envoy.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(str(program), "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id"),
            *("--admin-address-path", str(admin), "--log-level", "warning"),
            stdout=errors,
            stderr=errors,
        )
    try:
        async with asyncio.timeout(_PATIENCE):
            yield await address_of(process, admin, log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def address_of(process: asyncio.subprocess.Process, admin: Path, log: Path) -> str:
    """Return the address of Envoy's listener once it listens."""
    async with aiohttp.ClientSession() as client:
        while True:
            assert process.returncode is None, _text(log)
            if admin_address := _text(admin):
                status, listeners = await _status(client, f"http://{admin_address}")
                if status == 200 and listeners:
                    address = listeners[0]["local_address"]["socket_address"]
                    return f"http://127.0.0.1:{address['port_value']}"
            await asyncio.sleep(0.02)


async def _status(client: aiohttp.ClientSession, admin: str) -> tuple[int, list[Any]]:
    """Return whether Envoy is ready, as an HTTP status, and its listeners."""
    async with (
        client.get(f"{admin}/ready") as ready,
        client.get(f"{admin}/listeners?format=json") as got,
    ):
        return ready.status, (await got.json(content_type=None)).get("listener_statuses", [])


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def bootstrap(services: Mapping[str, Service]) -> dict[str, Any]:
    """Return Envoy's configuration."""
    jwt_authn = {
        "@type": f"{_TYPE}.http.jwt_authn.v3.JwtAuthentication",
        "providers": {name: provider(name, service) for name, service in services.items()},
        "rules": [
            {"match": {"prefix": f"/{name}"}, "requires": {"provider_name": name}}
            for name in services
        ],
    }
    manager = {
        "@type": f"{_TYPE}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "http_filters": [
            {"name": "envoy.filters.http.jwt_authn", "typed_config": jwt_authn},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.http.router.v3.Router"},
            },
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
    }
    manager_filter = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": manager,
    }
    return {
        "admin": {"address": socket_address(0)},
        "static_resources": {
            "listeners": [
                {
                    "name": "test",
                    "address": socket_address(0),
                    "filter_chains": [{"filters": [manager_filter]}],
                }
            ],
            "clusters": [cluster(name, service) for name, service in services.items()],
        },
    }


def provider(name: str, service: Service) -> dict[str, Any]:
    """Return how tokens of a service are verified."""
    return {
        "issuer": service.settings.tokens.issuer,
        "audiences": [service.settings.tokens.audience],
        "clock_skew_seconds": 5,
        "remote_jwks": {
            "http_uri": {
                "uri": f"http://127.0.0.1:{service.app.http_port}/.well-known/jwks.json",
                "cluster": name,
                "timeout": "5s",
            },
            "cache_duration": "30s",
        },
    }


def cluster(name: str, service: Service) -> dict[str, Any]:
    """Return where the service's HTTP port is."""
    endpoint = {"endpoint": {"address": socket_address(service.app.http_port)}}
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def socket_address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
