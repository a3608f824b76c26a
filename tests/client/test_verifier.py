"""The verifiers against the real service: no call for a token, no accept after a revocation.

Each test runs with both: the one for asyncio and the one for threads.
"""

import asyncio
import base64
import hashlib
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding
from prometheus_client.parser import text_string_to_metric_families

from authsvc.client import (
    AcceptStale,
    Ask,
    AsyncClient,
    AsyncVerifier,
    Freshness,
    Identity,
    NotDecidable,
    Refuse,
    ServiceUnavailable,
    TokenRejected,
    Verifier,
)
from authsvc.client.errors import CallerNotAllowed, CertificateRefused
from authsvc.client.verification import KeyUnknown
from authsvc.core.revocations import cursors
from authsvc.store.log_reading import Position
from authsvc.v1 import admin_service_pb2 as admin_pb
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1 import session_service_pb2 as session_pb
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from tests.support.certificates import Authority
from tests.support.clients import OpenTwin
from tests.support.probe import identity_of
from tests.support.proxy import Proxy
from tests.support.service import Service

ISSUER, AUDIENCE = "https://authsvc.dev", "authsvc"


class Twin:
    """Either verifier, with its calls awaited."""

    def __init__(self, verifier: AsyncVerifier | Verifier) -> None:
        self.verifier = verifier

    async def _call(self, method: Callable[..., Any], *given: Any, **named: Any) -> Any:
        if inspect.iscoroutinefunction(method):
            return await method(*given, **named)
        return await asyncio.to_thread(method, *given, **named)

    async def start(self, **options: Any) -> None:
        await self._call(self.verifier.start, **options)

    async def close(self) -> None:
        await self._call(self.verifier.close)

    async def authenticate(self, token: str, **options: Any) -> Identity:
        identity: Identity = await self._call(self.verifier.authenticate, token, **options)
        return identity

    def says(self, token: str, **options: Any) -> str:
        """Return "" if the token is accepted, and otherwise the reason."""
        try:
            self.verifier.verify(token, **options)
        except (TokenRejected, NotDecidable) as refused:
            return refused.reason
        return ""

    async def becomes(self, status: str) -> None:
        async with asyncio.timeout(60):
            while self.verifier.state.status != status:  # noqa: ASYNC110 - time passes
                await asyncio.sleep(0.01)

    async def comes_to_say(self, token: str, reason: str, **options: Any) -> None:
        async with asyncio.timeout(60):
            while self.says(token, **options) != reason:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.01)


StartVerifier = Callable[..., Awaitable[Twin]]


@pytest_asyncio.fixture
async def start_verifier(open_twin: OpenTwin) -> AsyncIterator[StartVerifier]:
    """Starts verifiers: `start_verifier(port, caller, client=…, wait=…, **options)`."""
    async with AsyncExitStack() as stack:

        async def start(
            port: int, caller: str = "app", *, client: Any = None, wait: float = 30, **options: Any
        ) -> Twin:
            client = client or open_twin(port, caller).client
            kind = AsyncVerifier if isinstance(client, AsyncClient) else Verifier
            # Long, as the machine may be busy; what is stale is seen with less.
            named: dict[str, Any] = {
                "issuer": ISSUER,
                "audience": AUDIENCE,
                "max_staleness": 5.0,
            }
            named |= options
            twin = Twin(kind(client, **named))
            stack.push_async_callback(twin.close)
            await twin.start(wait=wait)
            return twin

        yield start


async def calls_of(service: Service) -> float:
    """Return how many calls of validation the service has answered."""
    address = f"http://127.0.0.1:{service.app.http_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(address) as response:
        families = text_string_to_metric_families(await response.text())
        return sum(
            sample.value
            for family in families
            if family.name == "authsvc_rpc_calls"
            for sample in family.samples
            if sample.name.endswith("_total") and "Validate" in sample.labels["method"]
        )


# Accepted and refused without a call


async def test_tokens_are_verified_without_a_call(
    service: Service, start_verifier: StartVerifier
) -> None:
    tokens = await service.new_session()
    twin = await start_verifier(service.app.grpc_port)
    for _ in range(3):
        identity = twin.verifier.verify(tokens.access_token, scopes=["read"])
        assert identity == await twin.authenticate(tokens.access_token)
    assert (identity.kind, identity.user_id) == ("user", tokens.user_id)
    assert identity.session_id == tokens.session_id
    assert identity.scopes == {"read", "write"}
    assert identity.roles == ("user",)
    assert await calls_of(service) == 0
    assert twin.verifier.metrics()["accepted"] == 6
    assert twin.verifier.metrics()["examined"] == 1


async def test_identity_is_the_same_if_the_service_is_asked(
    service: Service, start_verifier: StartVerifier
) -> None:
    tokens = await service.new_session()
    exchanged = await service.auth().ExchangeToken(
        auth_pb.ExchangeTokenRequest(subject_token=tokens.access_token)
    )
    fresh = await start_verifier(service.app.grpc_port)
    never_fresh = await start_verifier(service.app.grpc_port, max_staleness=1e-9)
    for token in (tokens.access_token, exchanged.access_token):
        asked = await never_fresh.authenticate(token)
        assert asked == fresh.verifier.verify(token)
    assert asked.actors == (identity_of("app"),)
    assert never_fresh.verifier.metrics()["asked"] == await calls_of(service) == 2


ENDINGS: dict[str, Callable[[Service, Any], Awaitable[Any]]] = {
    "Logout": lambda service, tokens: service.auth().Logout(
        auth_pb.LogoutRequest(refresh_token=tokens.refresh_token)
    ),
    "RevokeSession": lambda service, tokens: service.sessions().RevokeSession(
        session_pb.RevokeSessionRequest(session_id=tokens.session_id)
    ),
    "RevokeUserSessions": lambda service, tokens: service.sessions().RevokeUserSessions(
        session_pb.RevokeUserSessionsRequest(user_id=tokens.user_id)
    ),
    "DisableUser": lambda service, tokens: service.admin().DisableUser(
        admin_pb.DisableUserRequest(user_id=tokens.user_id)
    ),
    "DeleteUser": lambda service, tokens: service.admin().DeleteUser(
        admin_pb.DeleteUserRequest(user_id=tokens.user_id)
    ),
}


async def test_what_was_ended_is_refused_without_a_call(
    service: Service, start_verifier: StartVerifier
) -> None:
    early = await start_verifier(service.app.grpc_port)
    other = await service.new_session("other@example.com")
    ended = []
    for number, (name, end) in enumerate(ENDINGS.items()):
        tokens = await service.new_session(f"user{number}@example.com")
        assert early.says(tokens.access_token) == ""
        await end(service, tokens)
        await early.comes_to_say(tokens.access_token, "SESSION_REVOKED")
        ended.append((name, tokens))
    # One that starts later is told of the same, within the bound.
    late = await start_verifier(service.app.grpc_port)
    for _, tokens in ended:
        await late.comes_to_say(tokens.access_token, "SESSION_REVOKED")
    assert (early.says(other.access_token), late.says(other.access_token)) == ("", "")
    assert await calls_of(service) == 0


async def test_revoked_key_ends_its_tokens_and_its_successor_is_fetched(
    service: Service, start_verifier: StartVerifier
) -> None:
    twin = await start_verifier(service.app.grpc_port)
    before = await service.new_session()
    key_id = twin.verifier.verify(before.access_token).key_id
    await service.admin().RevokeSigningKey(admin_pb.RevokeSigningKeyRequest(key_id=key_id))
    await twin.comes_to_say(before.access_token, "SIGNATURE_INVALID")
    after = await service.login()
    async with asyncio.timeout(30):
        while True:
            try:
                identity = await twin.authenticate(after.access_token)
                break
            except (TokenRejected, NotDecidable):
                # The keys were fetched a moment before the new one was published.
                await asyncio.sleep(0.1)
    assert identity.key_id != key_id
    assert twin.says(before.access_token) == "SIGNATURE_INVALID"
    assert await calls_of(service) == 0


async def test_bound_tokens_need_the_certificate(
    service: Service, authority: Authority, start_verifier: StartVerifier
) -> None:
    holder, thief = (authority.caller(identity_of(role)) for role in ("app", "edge"))
    stub = AuthServiceStub(service.clients.open(holder))
    issued = await stub.IssueServiceToken(auth_pb.IssueServiceTokenRequest())
    twin = await start_verifier(service.app.grpc_port)
    own, other = (one.parsed.public_bytes(Encoding.DER) for one in (holder, thief))
    identity = twin.verifier.verify(issued.access_token, certificate=own)
    assert (identity.kind, identity.service) == ("service", identity_of("app"))
    assert (identity.user_id, identity.session_id, identity.is_bound) == ("", "", True)
    for shown in (other, b"", None, hashlib.sha256(own).digest()):
        assert twin.says(issued.access_token, certificate=shown) == "CERTIFICATE_MISMATCH"
    # Whoever is asked says the same.
    never_fresh = await start_verifier(service.app.grpc_port, max_staleness=1e-9)
    assert await never_fresh.authenticate(issued.access_token, certificate=own) == identity


async def test_verifier_and_service_agree(
    service: Service, authority: Authority, start_verifier: StartVerifier
) -> None:
    live, dead = await service.new_session(), await service.new_session("dead@example.com")
    exchanged = await service.auth().ExchangeToken(
        auth_pb.ExchangeTokenRequest(subject_token=live.access_token, scopes=["read"])
    )
    stub = AuthServiceStub(service.clients.open(authority.caller(identity_of("app"))))
    own = await stub.IssueServiceToken(auth_pb.IssueServiceTokenRequest())
    twin = await start_verifier(service.app.grpc_port)
    await service.auth().Logout(auth_pb.LogoutRequest(refresh_token=dead.refresh_token))
    await twin.comes_to_say(dead.access_token, "SESSION_REVOKED")
    token = live.access_token
    for shown in (
        token,
        exchanged.access_token,
        own.access_token,
        dead.access_token,
        live.refresh_token,
        live.session_token,
        token[:-1],
        token + "=",
        token[:-2] + ("AA" if not token.endswith("AA") else "BB"),
        token.replace(".", "..", 1),
        "x",
    ):
        for options in ({}, {"audience": "other"}, {"scopes": ["write"]}, {"scopes": ["admin"]}):
            named = {
                "required_scopes" if name == "scopes" else name: value
                for name, value in options.items()
            }
            assert twin.says(shown, **options) == await service.judge_token(shown, **named)


async def test_cursor_that_is_not_reached_asks_the_service(
    service: Service, start_verifier: StartVerifier
) -> None:
    tokens = await service.new_session()
    twin = await start_verifier(service.app.grpc_port)
    for cursor in ("x", "AQ" + "A" * 32):
        assert twin.says(tokens.access_token, min_cursor=cursor) == "CURSOR_NOT_REACHED"
        for rule in (Refuse(), AcceptStale(60)):
            with pytest.raises(NotDecidable, match="CURSOR_NOT_REACHED"):
                await twin.authenticate(tokens.access_token, min_cursor=cursor, when_degraded=rule)
    assert await calls_of(service) == 0
    # Of another run of the database: the service looks it up.
    assert await twin.authenticate(tokens.access_token, min_cursor="AQ" + "A" * 32)
    with pytest.raises(NotDecidable, match="CURSOR_NOT_REACHED"):
        await twin.authenticate(tokens.access_token, min_cursor="x")


async def test_cursor_of_an_ending_is_reached_with_it(
    service: Service, start_verifier: StartVerifier
) -> None:
    tokens, other = await service.new_session(), await service.new_session("b@example.com")
    twin = await start_verifier(service.app.grpc_port)
    ended = await service.auth().Logout(auth_pb.LogoutRequest(refresh_token=tokens.refresh_token))
    assert ended.revocation_cursor
    shown = {"min_cursor": ended.revocation_cursor}
    # Whoever shows it is never told that the session goes on, from the acknowledgement on.
    outcomes = set()
    async with asyncio.timeout(30):
        while "SESSION_REVOKED" not in outcomes:
            outcomes.add(twin.says(tokens.access_token, **shown))
            await asyncio.sleep(0.01)
    assert outcomes <= {"CURSOR_NOT_REACHED", "SESSION_REVOKED"}
    await twin.comes_to_say(other.access_token, "", **shown)
    assert await calls_of(service) == 0


async def test_cursor_not_reached_yet_is_answered_by_the_service(
    service: Service, start_verifier: StartVerifier
) -> None:
    tokens = await service.new_session()
    twin = await start_verifier(service.app.grpc_port)
    for _ in range(10):
        ended = await service.login()
        done = await service.auth().Logout(auth_pb.LogoutRequest(refresh_token=ended.refresh_token))
        cursor = done.revocation_cursor
        with pytest.raises(TokenRejected, match="SESSION_REVOKED"):
            await twin.authenticate(ended.access_token, min_cursor=cursor)
        assert await twin.authenticate(tokens.access_token, min_cursor=cursor)


async def test_lost_role_ends_older_tokens_and_no_newer_one(
    service: Service, start_verifier: StartVerifier
) -> None:
    tokens = await service.new_session()
    twin = await start_verifier(service.app.grpc_port)
    assert twin.says(tokens.access_token) == ""
    await service.admin().SetUserRoles(
        admin_pb.SetUserRolesRequest(user_id=tokens.user_id, roles=[])
    )
    newer = await service.refresh(tokens.refresh_token)
    await twin.comes_to_say(tokens.access_token, "TOKEN_OUTDATED")
    assert twin.says(newer.access_token) == ""
    assert twin.verifier.verify(newer.access_token).scopes == frozenset()
    assert await calls_of(service) == 0


# Unknown keys


@pytest.mark.parametrize("algorithm", ["ES256", "HS256"])
async def test_flood_of_unknown_key_ids_costs_few_fetches_and_no_question(
    service: Service, start_verifier: StartVerifier, algorithm: str
) -> None:
    tokens = await service.new_session()
    twin = await start_verifier(service.app.grpc_port)
    fetches = twin.verifier.metrics()["key_fetches"]
    forged = [_with_key_id(tokens.access_token, number, algorithm) for number in range(300)]
    started = asyncio.get_running_loop().time()
    outcomes = await asyncio.gather(
        *(twin.authenticate(token) for token in forged), return_exceptions=True
    )
    seconds = asyncio.get_running_loop().time() - started
    assert {type(outcome) for outcome in outcomes} <= {TokenRejected, NotDecidable}
    assert twin.verifier.metrics()["key_fetches"] - fetches <= 1 + seconds / 2 + 1
    assert twin.verifier.metrics()["asked"] == await calls_of(service) == 0
    assert twin.says(tokens.access_token) == ""


async def test_flood_of_unknown_key_ids_asks_nothing_while_keys_cannot_be_fetched(
    service: Service, start_verifier: StartVerifier
) -> None:
    tokens = await service.new_session()
    twin = await start_verifier(service.app.grpc_port, max_staleness=60)
    await service.app.stop()
    keys = twin.verifier._verification.knowledge.keys
    # As if the last fetch were long ago.
    keys._known_at = keys._began = float("-inf")
    fetches = twin.verifier.metrics()["key_fetches"]
    started = asyncio.get_running_loop().time()
    for part in range(3):
        forged = [_with_key_id(tokens.access_token, 10 * part + n) for n in range(10)]
        outcomes = await asyncio.gather(
            *(twin.authenticate(token) for token in forged), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {KeyUnknown}
    seconds = asyncio.get_running_loop().time() - started
    assert 1 <= twin.verifier.metrics()["key_fetches"] - fetches <= 2 + seconds / 2
    assert twin.verifier.metrics()["asked"] == 0
    assert twin.says(tokens.access_token) == ""


def _with_key_id(token: str, number: int, algorithm: str = "ES256") -> str:
    header = {"typ": "at+jwt", "alg": algorithm, "kid": f"unknown-{number}"}
    first = base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
    return ".".join([first, *token.split(".")[1:]])


# When the service is away


async def test_silent_connection_makes_stale_and_nothing_is_missed_afterwards(
    service: Service, start_verifier: StartVerifier
) -> None:
    tokens, ended = await service.new_session(), await service.new_session("b@example.com")
    told: list[Freshness] = []
    async with Proxy(f"tcp://127.0.0.1:{service.app.grpc_port}") as proxy:
        port = urlsplit(proxy.dsn).port
        assert port is not None
        twin = await start_verifier(port, max_staleness=1.5, on_degraded=told.append)
        await twin.becomes("fresh")
        proxy.hold()
        await twin.becomes("stale")
        assert twin.says(tokens.access_token) == "UNUSABLE"
        await service.auth().Logout(auth_pb.LogoutRequest(refresh_token=ended.refresh_token))
        with pytest.raises(NotDecidable, match="UNUSABLE"):
            await twin.authenticate(tokens.access_token, when_degraded=Refuse())
        accepted = await twin.authenticate(tokens.access_token, when_degraded=AcceptStale(60))
        assert accepted.session_id == tokens.session_id
        with pytest.raises(NotDecidable, match="UNUSABLE"):
            await twin.authenticate(tokens.access_token, when_degraded=AcceptStale(0.001))
        proxy.release()
        await twin.becomes("fresh")
        assert twin.says(ended.access_token) == "SESSION_REVOKED"
        assert twin.says(tokens.access_token) == ""
        async with asyncio.timeout(30):
            while told[-1].status != "fresh":  # noqa: ASYNC110 - told a moment later
                await asyncio.sleep(0.01)
        # Nothing had to be read anew.
        assert twin.verifier.metrics()["snapshots"] == 1
        await twin.close()
    assert [state.status for state in told][:2] == ["fresh", "stale"]


async def test_dead_connections_are_replaced(
    service: Service, start_verifier: StartVerifier
) -> None:
    tokens = await service.new_session()
    async with Proxy(f"tcp://127.0.0.1:{service.app.grpc_port}") as proxy:
        port = urlsplit(proxy.dsn).port
        assert port is not None
        twin = await start_verifier(port)
        await twin.becomes("fresh")
        proxy.strand()
        await service.auth().Logout(auth_pb.LogoutRequest(refresh_token=tokens.refresh_token))
        # gRPC by itself would take 50 seconds.
        async with asyncio.timeout(25):
            await twin.comes_to_say(tokens.access_token, "SESSION_REVOKED")
        await twin.close()


async def test_outdated_cursor_begins_anew_and_goes_on_to_refuse(
    service: Service, start_verifier: StartVerifier
) -> None:
    tokens, ended = await service.new_session(), await service.new_session("b@example.com")
    await service.auth().Logout(auth_pb.LogoutRequest(refresh_token=ended.refresh_token))
    async with Proxy(f"tcp://127.0.0.1:{service.app.grpc_port}") as proxy:
        port = urlsplit(proxy.dsn).port
        assert port is not None
        twin = await start_verifier(port)
        knowledge = twin.verifier._verification.knowledge
        begin = knowledge.begin_anew
        said: list[str] = []

        def begin_anew() -> None:
            begin()
            said.extend(twin.says(one.access_token) for one in (tokens, ended))

        knowledge.begin_anew = begin_anew  # type: ignore[method-assign]  # to look in between
        feed = twin.verifier._feed
        assert feed is not None
        opened = feed.following.open

        def open_with_outdated(now: float) -> session_pb.WatchRevocationsRequest:
            request = opened(now)
            if not said:
                request.cursor = _cursor_of_another_run()
            return request

        feed.following.open = open_with_outdated  # type: ignore[method-assign]  # as after a failover
        proxy.strand()
        async with asyncio.timeout(60):
            while twin.verifier.metrics()["snapshots"] < 2:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.01)
        assert said == ["UNUSABLE", "SESSION_REVOKED"]
        assert [twin.says(one.access_token) for one in (tokens, ended)] == ["", "SESSION_REVOKED"]
        await twin.close()


def _cursor_of_another_run() -> str:
    position = Position(
        run_id=uuid4(), xmax=1000, in_progress=(), read_time=datetime.now(UTC), partial=None
    )
    return cursors.write_watch_cursor(cursors.WatchCursor(position))


async def test_child_of_a_fork_asks_nobody(service: Service, start_verifier: StartVerifier) -> None:
    tokens = await service.new_session()
    twin = await start_verifier(service.app.grpc_port)
    assert twin.says(tokens.access_token) == ""
    knowledge = twin.verifier._verification.knowledge
    knowledge.lose()
    with pytest.raises(NotDecidable, match="UNUSABLE"):
        await twin.authenticate(tokens.access_token, when_degraded=Ask())
    assert await calls_of(service) == 0


async def test_plug_pulled_refuses_asks_or_accepts_by_rule(
    service: Service, start_verifier: StartVerifier
) -> None:
    tokens = await service.new_session()
    twin = await start_verifier(service.app.grpc_port, max_staleness=1.5)
    assert twin.says(tokens.access_token) == ""
    await service.app.stop()
    await twin.becomes("stale")
    assert (await twin.authenticate(tokens.access_token, when_degraded=AcceptStale(60))).user_id
    with pytest.raises(NotDecidable):
        await twin.authenticate(tokens.access_token, when_degraded=Refuse())
    with pytest.raises(NotDecidable) as caught:
        await twin.authenticate(tokens.access_token, when_degraded=Ask())
    assert isinstance(caught.value.__cause__, ServiceUnavailable)
    # What is wrong with a token is known anyway.
    assert twin.says(tokens.access_token, audience="other") == "AUDIENCE_MISMATCH"
    assert twin.says("x") == "MALFORMED"


async def test_service_away_at_the_start_is_waited_for(
    service: Service, start_verifier: StartVerifier
) -> None:
    tokens = await service.new_session()
    async with Proxy(f"tcp://127.0.0.1:{service.app.grpc_port}") as proxy:
        port = urlsplit(proxy.dsn).port
        assert port is not None
        proxy.hold()
        twin = await start_verifier(port, wait=0.05)
        assert twin.verifier.state == Freshness("unusable", float("inf"))
        assert twin.says(tokens.access_token) == "UNUSABLE"
        with pytest.raises(NotDecidable, match="UNUSABLE"):
            await twin.authenticate(tokens.access_token, when_degraded=AcceptStale(1e9))
        proxy.release()
        await twin.becomes("fresh")
        assert twin.says(tokens.access_token) == ""
        await twin.close()


async def test_client_that_may_not_watch_is_told_so_at_the_start(
    service: Service, start_verifier: StartVerifier
) -> None:
    with pytest.raises(CallerNotAllowed):
        await start_verifier(service.app.grpc_port, "observer")


async def test_certificate_that_is_not_accepted_is_no_outage_at_the_start(
    service: Service, start_verifier: StartVerifier, open_twin: OpenTwin
) -> None:
    client = open_twin(service.app.grpc_port, server_name="authsvc.elsewhere.example").client
    with pytest.raises(CertificateRefused):
        await start_verifier(service.app.grpc_port, client=client)


async def test_failing_hook_stops_nothing(service: Service, start_verifier: StartVerifier) -> None:
    def fail(_state: Freshness) -> None:
        raise RuntimeError("of the hook")

    tokens = await service.new_session()
    twin = await start_verifier(service.app.grpc_port, on_degraded=fail)
    await service.auth().Logout(auth_pb.LogoutRequest(refresh_token=tokens.refresh_token))
    await twin.comes_to_say(tokens.access_token, "SESSION_REVOKED")


# One feed for each client


async def test_verifiers_of_one_client_share_the_stream_until_the_last_is_closed(
    service: Service, open_twin: OpenTwin, start_verifier: StartVerifier
) -> None:
    tokens = await service.new_session()
    client = open_twin(service.app.grpc_port, "app").client
    first, second = [
        await start_verifier(0, client=client, audience=audience)
        for audience in (AUDIENCE, "other")
    ]
    assert first.says(tokens.access_token) == ""
    assert second.says(tokens.access_token) == "AUDIENCE_MISMATCH"
    assert first.verifier.metrics()["streams"] == second.verifier.metrics()["streams"] == 1
    await second.close()
    assert second.verifier.state.status == "unusable"
    assert first.says(tokens.access_token) == ""
    await service.auth().Logout(auth_pb.LogoutRequest(refresh_token=tokens.refresh_token))
    await first.comes_to_say(tokens.access_token, "SESSION_REVOKED")
    await first.close()
    assert first.says(tokens.access_token) == "UNUSABLE"


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": ""},
        {"audience": ""},
        {"max_staleness": 0.0},
        {"max_staleness": float("nan")},
        {"clock_skew": -1.0},
    ],
)
async def test_wrong_parameters_are_refused(
    wrong: dict[str, Any], service: Service, start_verifier: StartVerifier
) -> None:
    with pytest.raises(ValueError, match="must"):
        await start_verifier(service.app.grpc_port, **wrong)


async def test_single_text_is_not_taken_for_scopes(
    service: Service, start_verifier: StartVerifier
) -> None:
    tokens = await service.new_session()
    twin = await start_verifier(service.app.grpc_port)
    with pytest.raises(TypeError, match="collection"):
        twin.verifier.verify(tokens.access_token, scopes="read")
    with pytest.raises(TypeError, match="collection"):
        await twin.authenticate(tokens.access_token, scopes="read")
