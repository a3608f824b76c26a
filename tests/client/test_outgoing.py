"""What a service sends along when it calls another: its token, the user's, and the request's id."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import load_pem_x509_certificate

from authsvc.app import web
from authsvc.client import (
    AsyncClient,
    AsyncServiceTokenCredentials,
    AsyncTokenExchange,
    Client,
    ServiceTokenCredentials,
    ServiceUnavailable,
    SyncInterceptor,
    TokenExchange,
    aio_interceptors,
    context,
    errors,
)
from authsvc.client.guards.current import Serving, current_token
from authsvc.v1.auth_service_pb2 import LogoutRequest
from tests.support.certificates import Authority, channel_credentials
from tests.support.clients import OpenAsync, OpenSync, OpenTwin, TlsFiles
from tests.support.guarded import http_call
from tests.support.probe import identity_of
from tests.support.service import Service

SEEN = "/shop.v1.Payments/Seen"
TRACE = f"00-{'1' * 32}-{'2' * 16}-01"
HEADERS = {"x-request-id": "r-1", "traceparent": TRACE, "tracestate": "a=b"}


@pytest.fixture(autouse=True)
def fresh_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics that are as new as the answer that has them."""
    monkeypatch.setattr(web, "_METRICS_SECONDS", 0.0)


async def issued(service: Service, rpc: str) -> int:
    """Return how many calls of an RPC the service has answered."""
    metrics = (await http_call(service.app.http_port, "GET", "/metrics")).body.decode()
    counts = re.findall(rf'(?m)^authsvc_rpc_calls_total\{{.*/{rpc}".*\}} ([0-9.]+)$', metrics)
    return sum(int(float(count)) for count in counts)


class Tokens:
    """Either kind of source of tokens; that of threads is asked in threads."""

    def __init__(self, source: Any) -> None:
        self.source = source

    async def token(self, *subject: str) -> str:
        asked = self.source.token
        if isinstance(self.source, ServiceTokenCredentials | TokenExchange):
            return str(await asyncio.to_thread(asked, *subject))
        return str(await asked(*subject))


def own_tokens(client: AsyncClient | Client) -> Tokens:
    if isinstance(client, Client):
        return Tokens(ServiceTokenCredentials(client, "billing", ["invoices.read"]))
    return Tokens(AsyncServiceTokenCredentials(client, "billing", ["invoices.read"]))


def exchange(client: AsyncClient | Client, **options: Any) -> Tokens:
    if isinstance(client, Client):
        return Tokens(TokenExchange(client, "billing", ["read"], **options))
    return Tokens(AsyncTokenExchange(client, "billing", ["read"], **options))


async def test_own_token_is_requested_once_and_renewed_in_the_background(
    service: Service, open_twin: OpenTwin
) -> None:
    tokens = own_tokens(open_twin(service.app.grpc_port).client)
    first, *others = await asyncio.gather(*(tokens.token() for _ in range(20)))
    assert set(others) == {first}
    assert await issued(service, "IssueServiceToken") == 1
    held = tokens.source._held
    # Of ten minutes, after 70 to 80 %; the last seconds are not used.
    assert 110 < held.end_time - held.renew_time < 180
    # Once it is due, callers still get the old one, and it is requested once.
    object.__setattr__(held, "renew_time", 0.0)
    assert {await tokens.token() for _ in range(2)} <= {first, tokens.source._held.token}
    async with asyncio.timeout(60):
        while await tokens.token() == first:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
    assert await issued(service, "IssueServiceToken") == 2


async def test_own_token_is_used_while_the_service_is_away_until_it_ends(
    service: Service, open_twin: OpenTwin
) -> None:
    tokens = own_tokens(open_twin(service.app.grpc_port, retries=0).client)
    first = await tokens.token()
    await service.app.stop()
    object.__setattr__(tokens.source._held, "renew_time", 0.0)
    async with asyncio.timeout(60):
        while not tokens.source._next_attempt:
            assert await tokens.token() == first
            await asyncio.sleep(0.01)
    assert await tokens.token() == first
    object.__setattr__(tokens.source._held, "end_time", 0.0)
    with pytest.raises(ServiceUnavailable):
        await tokens.token()


async def test_own_token_is_renewed_with_the_certificate(
    service: Service, open_twin: OpenTwin, tmp_path: Path, authority: Authority
) -> None:
    client = open_twin(service.app.grpc_port).client
    tokens, files = own_tokens(client), TlsFiles(tmp_path / "tls_of_app", authority)
    first = await tokens.token()
    assert await judged(service, first, files) == ""
    files.write_for("app")
    # The files are looked at every ten seconds.
    assert await tokens.token() == first
    client.channel._renewal._next = 0.0
    second = await tokens.token()
    assert await judged(service, second, files) == ""
    assert await judged(service, first, files) == "CERTIFICATE_MISMATCH"
    # Once, however many need it, and no more afterwards.
    assert {await tokens.token() for _ in range(3)} == {second}
    assert await issued(service, "IssueServiceToken") == 2


async def judged(service: Service, token: str, files: TlsFiles) -> str:
    """Return why a token is not accepted with the certificate in the files, or ""."""
    certificate = load_pem_x509_certificate((files.folder / "client.crt").read_bytes())
    thumbprint = certificate.fingerprint(SHA256())
    return await service.judge_token(
        token, audience="billing", certificate_thumbprint=thumbprint, strict=True
    )


async def test_new_certificate_at_once_for_many_is_one_request(
    service: Service, open_twin: OpenTwin, tmp_path: Path, authority: Authority
) -> None:
    client = open_twin(service.app.grpc_port).client
    tokens = own_tokens(client)
    first = await tokens.token()
    TlsFiles(tmp_path / "tls_of_app", authority).write_for("app")
    client.channel._renewal._next = 0.0
    found = await asyncio.gather(*(tokens.token() for _ in range(20)))
    second = await tokens.token()
    # While one thread looks at the files, the others go on with what there is.
    assert first != second
    assert second in found
    assert set(found) <= {first, second}
    assert await issued(service, "IssueServiceToken") == 2


async def test_token_of_the_former_certificate_is_used_while_the_service_is_away(
    service: Service, open_twin: OpenTwin, tmp_path: Path, authority: Authority
) -> None:
    client = open_twin(service.app.grpc_port, retries=0).client
    tokens = own_tokens(client)
    first = await tokens.token()
    await service.app.stop()
    TlsFiles(tmp_path / "tls_of_app", authority).write_for("app")
    client.channel._renewal._next = 0.0
    assert await tokens.token() == first
    assert tokens.source._next_attempt
    # Nobody waits again before the next attempt is due, nor once the client is closed.
    assert await tokens.token() == first
    if isinstance(client, Client):
        client.close()
    else:
        await client.close()
    assert await tokens.token() == first


async def test_exchanged_tokens_are_cached_for_each_token(
    service: Service, open_twin: OpenTwin
) -> None:
    tokens = exchange(open_twin(service.app.grpc_port).client, cache_size=2)
    ada, *others = [await service.new_session(f"u{n}@example.com") for n in range(3)]
    first = await tokens.token(ada.access_token)
    assert await tokens.token(ada.access_token) == first
    assert await issued(service, "ExchangeToken") == 1
    assert await service.judge_token(first, audience="billing") == ""
    # The cache is bounded: the one not used for longest goes.
    for other in others:
        assert await tokens.token(other.access_token) != first
    await tokens.token(ada.access_token)
    assert await issued(service, "ExchangeToken") == 4
    # An expired one is not used.
    for held in tokens.source._cache._held.values():
        object.__setattr__(held, "end_time", 0.0)
    await tokens.token(ada.access_token)
    assert await issued(service, "ExchangeToken") == 5


async def test_ended_token_can_not_be_exchanged(service: Service, open_twin: OpenTwin) -> None:
    tokens = exchange(open_twin(service.app.grpc_port).client)
    ada = await service.new_session()
    await service.auth().Logout(LogoutRequest(refresh_token=ada.refresh_token))
    with pytest.raises(errors.CredentialsInvalid):
        await tokens.token(ada.access_token)
    with pytest.raises(LookupError):
        await tokens.token()


async def test_exchange_at_once_is_one_call_beyond_the_deadline_of_the_first(
    service: Service, open_async: OpenAsync
) -> None:
    tokens = AsyncTokenExchange(open_async(service.app.grpc_port), "billing")
    ada = await service.new_session()

    async def serve(deadline: float | None) -> str:
        Serving({}, identity=None, token=ada.access_token, deadline=deadline).set()
        assert current_token() == ada.access_token
        return await tokens.token()

    # The first request is over by its deadline; the others need the token still.
    found = await asyncio.gather(serve(0.0), *(serve(None) for _ in range(9)))
    assert len(set(found)) == 1
    assert await issued(service, "ExchangeToken") == 1


class Seeing:
    """A service that answers with the metadata of a call, and whether it has a deadline."""

    async def seen(self, _request: Any, call: Any) -> bytes:
        found = {key: str(value) for key, value in call.invocation_metadata()}
        remaining = call.time_remaining()
        return json.dumps(found | {"deadline": remaining is not None}).encode()


@pytest.fixture
async def payments(authority: Authority) -> Any:
    """The port of a service that says what it saw."""
    server = grpc.aio.server()
    method: Any = grpc.unary_unary_rpc_method_handler(Seeing().seen)
    handler = grpc.method_handlers_generic_handler("shop.v1.Payments", {"Seen": method})
    server.add_generic_rpc_handlers([handler])
    pair = authority.server()
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials(
            [(pair.key, pair.certificate)], authority.certificate, require_client_auth=True
        ),
    )
    await server.start()
    yield port
    await server.stop(None)


@pytest.mark.parametrize("kind", ["asyncio", "threads", "plugin"])
async def test_call_carries_token_id_trace_and_deadline(
    kind: str,
    service: Service,
    authority: Authority,
    payments: int,
    open_async: OpenAsync,
    open_sync: OpenSync,
) -> None:
    credentials = channel_credentials(authority.certificate, authority.caller(identity_of("app")))
    target = f"localhost:{payments}"
    loop = asyncio.get_running_loop()
    if kind == "asyncio":
        own = AsyncServiceTokenCredentials(open_async(service.app.grpc_port), "billing")
        channel = grpc.aio.secure_channel(target, credentials, interceptors=aio_interceptors(own))
        Serving(HEADERS, identity=None, deadline=loop.time() + 60).set()
        call: Any = channel.unary_unary(SEEN)
        seen = json.loads(await call(b""))
        by_hand = json.loads(await call(b"", metadata=(("authorization", "mine"),)))
        await channel.close()
        token = await own.token()
    else:
        tokens = ServiceTokenCredentials(open_sync(service.app.grpc_port), "billing")
        if kind == "plugin":
            credentials = grpc.composite_channel_credentials(
                credentials, grpc.metadata_call_credentials(tokens)
            )
        with grpc.secure_channel(target, credentials) as plain:
            source = None if kind == "plugin" else tokens
            call = grpc.intercept_channel(plain, SyncInterceptor(source)).unary_unary(SEEN)

            def serve() -> Any:
                with Serving(HEADERS, identity=None, deadline=loop.time() + 60):
                    mine = (("authorization", "mine"),)
                    by_hand = {"authorization": "mine"}
                    if kind == "threads":
                        by_hand = json.loads(call(b"", metadata=mine))
                    return json.loads(call(b"")), by_hand

            seen, by_hand = await asyncio.to_thread(serve)
        token = await asyncio.to_thread(tokens.token)
    assert seen["authorization"] == f"Bearer {token}"
    assert {name: seen[name] for name in HEADERS} == HEADERS
    assert seen["deadline"]
    assert by_hand["authorization"] == "mine"
    assert await issued(service, "IssueServiceToken") == 1


def test_what_has_not_the_form_of_an_id_is_not_passed_on() -> None:
    for headers in (
        {"x-request-id": "a b", "traceparent": "x", "tracestate": "a=b"},
        {"x-request-id": "x" * 129, "traceparent": TRACE + "0"},
        {"x-request-id": "", "tracestate": "a=\x7f"},
    ):
        with Serving(headers, identity=None):
            ((name, made),) = context.metadata_of_request()
            assert (name, len(made)) == ("x-request-id", 32)
    with Serving({"traceparent": TRACE, "tracestate": "x" * 513}, identity=None):
        assert "tracestate" not in dict(context.metadata_of_request())
