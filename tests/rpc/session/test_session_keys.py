"""Session keys and TURN credentials, from a calling service's side."""

import asyncio
import base64
import hmac
import json
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToJson
from google.rpc.error_details_pb2 import ErrorInfo
from joserfc import jws
from joserfc.jwk import KeySet

from authsvc.config import BruteForceSettings, PolicySettings, Settings, TurnSettings
from authsvc.v1 import account_service_pb2 as account_pb
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1 import session_service_pb2 as pb
from authsvc.v1.common_pb2 import ClientContext, Tokens
from tests.support.clock import FakeClock
from tests.support.probe import failure, outcome, reason_of, with_changes
from tests.support.service import Service, StartService, detail, fields_of
from tests.support.session_keys import FINGERPRINT, elliptic, issue, keys_of, new_jwk, okp
from tests.support.sessions import CALL

SECRET = "a-secret-shared-with-turn"
URIS = ["turn:turn.example.test:3478?transport=udp", "turns:[2001:db8::1]:5349"]


def with_turn(settings: Settings, **changes: Any) -> Settings:
    values = {"uris": URIS, "secrets": [SECRET]} | changes
    return settings.model_copy(update={"turn": TurnSettings.model_validate(values)})


def bearer(text: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {text}"),)


async def jwks(service: Service) -> str:
    return (await service.auth().GetJwks(auth_pb.GetJwksRequest())).jwks_json


def turn(service: Service, tokens: Tokens, **more: Any) -> Any:
    """Call CreateTurnCredentials."""
    request = pb.CreateTurnCredentialsRequest(session_token=tokens.session_token, **more)
    return service.sessions().CreateTurnCredentials(request)


# Statements


async def test_statement_verifies_with_published_keys_of_an_independent_library(
    timed: Service, clock: FakeClock
) -> None:
    tokens, jwk = await timed.new_session(), okp()
    key = await issue(
        timed, tokens, public_jwk=json.dumps(jwk), purpose="e2e.chat_1", ttl=Duration(seconds=90)
    )
    token = jws.deserialize_compact(
        key.statement, KeySet.import_key_set(json.loads(await jwks(timed))), algorithms=["ES256"]
    )
    now = int(clock.now().timestamp())
    assert token.headers() == {
        "typ": "session-key+jwt",
        "alg": "ES256",
        "kid": token.headers()["kid"],
    }
    assert json.loads(token.payload) == {
        "iss": timed.settings.tokens.issuer,
        "aud": "urn:authsvc:session-key",
        "sub": tokens.user_id,
        "sid": tokens.session_id,
        "jti": key.key_id,
        "iat": now,
        "nbf": now,
        "exp": now + 90,
        "purpose": "e2e.chat_1",
        "cnf": {"jwk": jwk},
    }
    assert (key.user_id, key.session_id) == (tokens.user_id, tokens.session_id)
    assert json.loads(key.public_jwk) == jwk
    assert key.expire_time.ToSeconds() == now + 90
    assert key.create_time.ToSeconds() == now


async def test_fingerprint_is_in_the_statement(service: Service) -> None:
    tokens = await service.new_session()
    key = await issue(service, tokens, dtls_fingerprint=FINGERPRINT.lower())
    assert key.dtls_fingerprint == FINGERPRINT
    payload = json.loads(base64.urlsafe_b64decode(key.statement.split(".")[1] + "=="))
    assert payload["dtls_fingerprint"] == FINGERPRINT
    assert "cnf" not in payload


async def test_statement_is_no_access_token_and_no_session_token(service: Service) -> None:
    tokens = await service.new_session()
    statement = (await issue(service, tokens)).statement
    for audience in ("", "urn:authsvc:session-key"):
        assert await service.judge_token(statement, audience=audience) == "MALFORMED"
        assert await service.judge_token(statement, audience=audience, strict=True) == "MALFORMED"
    assert await service.judge_session(statement) == "MALFORMED"
    as_bearer = service.account().GetAccount(
        account_pb.GetAccountRequest(), metadata=bearer(statement)
    )
    assert await outcome(as_bearer) == "BEARER_INVALID"
    exchange = auth_pb.ExchangeTokenRequest(subject_token=statement)
    assert await outcome(service.auth().ExchangeToken(exchange)) == "CREDENTIALS_INVALID"
    for token in (tokens.access_token, tokens.refresh_token, statement):
        request = pb.IssueSessionKeyRequest(
            session_token=token, public_jwk=new_jwk(), purpose="chat"
        )
        error = await failure(service.sessions().IssueSessionKey(request))
        assert (error.code(), reason_of(error)) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "SESSION_INVALID",
        )


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated via RFC 9864")
@pytest.mark.parametrize("algorithm", ["EdDSA", "RS256"])
async def test_statement_is_signed_by_any_published_algorithm(
    algorithm: str, start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(with_changes(live_settings, "tokens", algorithm=algorithm))
    key = await issue(service, await service.new_session())
    keys = KeySet.import_key_set(json.loads(await jwks(service)))
    token = jws.deserialize_compact(key.statement, keys, algorithms=["EdDSA", "Ed25519", "RS256"])
    assert token.headers()["alg"] == algorithm


async def test_symmetric_signing_key_is_refused(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(with_changes(live_settings, "tokens", algorithm="HS256"))
    tokens = await service.new_session()
    listing = service.sessions().GetSessionKeys(pb.GetSessionKeysRequest(user_id=tokens.user_id))
    for call in (issue(service, tokens), listing):
        error = await failure(call)
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert reason_of(error) == "NOT_CONFIGURED"


async def test_keys_get_a_new_statement_after_signing_key_is_revoked(service: Service) -> None:
    tokens = await service.new_session()
    key = await issue(service, tokens)
    first = json.loads(await jwks(service))["keys"][0]["kid"]
    assert (await service.app._parts.use.signing_keys.revoke(CALL, first)).is_new
    request = pb.GetSessionKeysRequest(user_id=tokens.user_id)
    (listed,) = (await service.sessions().GetSessionKeys(request)).session_keys
    assert listed.key_id == key.key_id
    keys = KeySet.import_key_set(json.loads(await jwks(service)))
    assert first not in {each.kid for each in keys.keys}
    jws.deserialize_compact(listed.statement, keys, algorithms=["ES256"])


# The end of keys


async def _logout(service: Service, tokens: Tokens) -> None:
    await service.auth().Logout(auth_pb.LogoutRequest(refresh_token=tokens.refresh_token))


async def _revoke(service: Service, tokens: Tokens) -> None:
    request = pb.RevokeSessionRequest(session_id=tokens.session_id)
    await service.sessions().RevokeSession(request)


async def _delete_account(service: Service, tokens: Tokens) -> None:
    await service.prove(tokens.user_id)
    await service.account().DeleteAccount(
        account_pb.DeleteAccountRequest(), metadata=bearer(tokens.access_token)
    )


async def _disable(service: Service, tokens: Tokens) -> None:
    await service.fetch("UPDATE users SET status = 'disabled' WHERE user_id = $1", tokens.user_id)


async def test_keys_end_with_their_session_at_once_on_every_replica(
    start_service: StartService, live_settings: Settings
) -> None:
    here, there = [await start_service(live_settings) for _ in range(2)]
    other = await here.new_session("bob@example.test")
    kept = await issue(here, other)
    for number, end in enumerate((_logout, _revoke, _delete_account, _disable)):
        tokens = await here.new_session(f"ada{number}@example.test")
        key = await issue(here, tokens)
        assert await keys_of(there, tokens.user_id) == [key.key_id]
        # The session is in the cache of the other replica.
        assert await there.judge_session(tokens.session_token) == ""
        await end(here, tokens)
        assert await keys_of(there, tokens.user_id) == []
        assert await keys_of(there, other.user_id) == [kept.key_id]
        assert await outcome(issue(there, tokens)) == "SESSION_INVALID"


async def test_key_ends_with_time_and_never_after_its_session(
    timed: Service, clock: FakeClock
) -> None:
    tokens = await timed.new_session()
    key = await issue(timed, tokens, ttl=Duration(seconds=60))
    clock.advance(59)
    assert await keys_of(timed, tokens.user_id) == [key.key_id]
    clock.advance(1)
    assert await keys_of(timed, tokens.user_id) == []
    session = await timed.get_session(tokens.session_id)
    left = session.absolute_expire_time.ToSeconds() - int(clock.now().timestamp())
    for _ in range(9):
        clock.advance(timedelta(seconds=(left - 1_800) / 9))
        assert await timed.judge_session(tokens.session_token, strict=True) == ""
    last = await issue(timed, tokens)
    assert last.expire_time == session.absolute_expire_time


async def test_key_of_idle_session_is_not_listed(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session()
    await issue(timed, tokens)
    await timed.fetch("UPDATE sessions SET idle_expire_time = $1", clock.now())
    assert await keys_of(timed, tokens.user_id) == []
    assert await outcome(issue(timed, tokens)) == "SESSION_INVALID"


# What a caller shows for the session


async def test_causes_are_told_apart(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session()
    other = await timed.new_session("bob@example.test")

    async def cause(shown: Tokens, **more: Any) -> str:
        error = await failure(issue(timed, shown, **more))
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        info = detail(error, ErrorInfo)
        assert info.reason == "SESSION_INVALID"
        return str(info.metadata["cause"])

    assert await cause(tokens, csrf_token=other.csrf_token) == "CSRF_TOKEN"
    assert await cause(tokens, csrf_token="x") == "CSRF_TOKEN"
    assert await cause(tokens, session_token="x") == "MALFORMED"
    await issue(timed, tokens, csrf_token=tokens.csrf_token)
    clock.advance(timedelta(days=8))
    assert await cause(tokens) == "SESSION_EXPIRED"


async def test_client_binding_holds(start_service: StartService, live_settings: Settings) -> None:
    settings = with_turn(with_changes(live_settings, "sessions", ip_binding="exact"))
    service = await start_service(settings)
    tokens = await service.new_session(ip="192.0.2.1")
    good, bad = ClientContext(ip="192.0.2.1"), ClientContext(ip="192.0.2.2")
    for call in (issue, turn):
        assert await outcome(call(service, tokens, client=bad)) == "SESSION_BINDING_MISMATCH"
        assert await outcome(call(service, tokens)) == "SESSION_BINDING_MISMATCH"
        await call(service, tokens, client=good)


# Limits and repetition


async def test_same_key_again_is_the_same_and_never_ends_earlier(
    timed: Service, clock: FakeClock
) -> None:
    tokens, jwk = await timed.new_session(), elliptic()
    first = await issue(timed, tokens, public_jwk=json.dumps(jwk), ttl=Duration(seconds=600))
    again = await issue(
        timed, tokens, public_jwk=json.dumps(jwk | {"kid": "x"}), ttl=Duration(seconds=60)
    )
    assert (again.key_id, again.expire_time) == (first.key_id, first.expire_time)
    clock.advance(300)
    longer = await issue(timed, tokens, public_jwk=json.dumps(jwk), ttl=Duration(seconds=600))
    assert longer.key_id == first.key_id
    assert longer.create_time == first.create_time
    assert longer.expire_time.ToSeconds() == first.expire_time.ToSeconds() + 300
    other = await issue(timed, tokens, public_jwk=json.dumps(jwk), purpose="files")
    assert await keys_of(timed, tokens.user_id) == [other.key_id, first.key_id]


async def test_concurrent_calls_respect_the_limit_of_keys(
    start_service: StartService, live_settings: Settings
) -> None:
    settings = with_changes(live_settings, "sessions", max_keys=3)
    replicas = [await start_service(settings) for _ in range(2)]
    tokens = await replicas[0].new_session()
    wanted = [new_jwk() for _ in range(8)]
    calls = [issue(replicas[n % 2], tokens, public_jwk=wanted[n % 8]) for n in range(24)]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    made = {key.key_id for key in ends if isinstance(key, pb.SessionKey)}
    reasons = {reason_of(end) for end in ends if isinstance(end, grpc.aio.AioRpcError)}
    assert len(made) == 3
    assert reasons == {"LIMIT_REACHED"}
    listed = await keys_of(replicas[1], tokens.user_id)
    assert set(listed) == made
    # One that is there can be repeated, also when nothing else has room.
    stored = await replicas[0].fetch("SELECT public_key FROM session_keys LIMIT 1")
    again = await issue(replicas[0], tokens, public_jwk=stored[0][0])
    assert again.key_id in made


async def test_expired_keys_do_not_count(
    start_service: StartService, live_settings: Settings, clock: FakeClock
) -> None:
    settings = with_changes(live_settings, "sessions", max_keys=1)
    service = await start_service(settings, clock)
    tokens = await service.new_session()
    await issue(service, tokens, ttl=Duration(seconds=1))
    assert await outcome(issue(service, tokens)) == "LIMIT_REACHED"
    clock.advance(1)
    await issue(service, tokens)
    assert await outcome(issue(service, tokens)) == "LIMIT_REACHED"


async def test_both_are_limited_by_user(
    start_service: StartService, live_settings: Settings
) -> None:
    few = PolicySettings(requests=2, window=timedelta(hours=1))
    limits = BruteForceSettings(session_keys_per_user=few, turn_credentials_per_user=few)
    settings = with_turn(live_settings).model_copy(update={"brute_force": limits})
    service = await start_service(settings)
    tokens = await service.new_session()
    other = await service.new_session("bob@example.test")
    for call in (issue, turn):
        ends = await asyncio.gather(*(outcome(call(service, tokens)) for _ in range(6)))
        assert sorted(ends) == ["OK"] * 2 + ["TOO_MANY_ATTEMPTS"] * 4
        assert await outcome(call(service, other)) == "OK"


async def test_bad_field_is_refused_by_its_path(service: Service) -> None:
    tokens = await service.new_session()
    bad: list[tuple[str, Any]] = [
        *(("purpose", text) for text in ("", "Chat", "a" * 65, "a b", "chat\n")),
        ("public_jwk", ""),
        ("public_jwk", " " * 4_097),
        ("dtls_fingerprint", ""),
        ("dtls_fingerprint", "sha-1 AB"),
        ("ttl", Duration()),
        ("ttl", Duration(nanos=999_999_999)),
        ("ttl", Duration(seconds=-1)),
        ("ttl", Duration(seconds=3_601)),
        ("session_token", ""),
    ]
    for field, value in bad:
        assert fields_of(await failure(issue(service, tokens, **{field: value}))) == [field]
    assert await service.fetch("SELECT FROM session_keys") == []


async def test_key_is_required(service: Service) -> None:
    request = pb.IssueSessionKeyRequest(session_token="x", purpose="chat")
    assert fields_of(await failure(service.sessions().IssueSessionKey(request))) == ["key"]


# Lists, events, export


async def test_pages_hold_every_key_of_every_session_once(service: Service) -> None:
    tokens = await service.new_session()
    second = await service.login()
    made = [await issue(service, each) for each in (tokens, second, tokens, second, tokens)]
    seen: list[str] = []
    page_token = ""
    while True:
        request = pb.GetSessionKeysRequest(
            user_id=tokens.user_id, page_size=2, page_token=page_token
        )
        page = await service.sessions().GetSessionKeys(request)
        seen += [key.key_id for key in page.session_keys]
        page_token = page.next_page_token
        if not page_token:
            break
    assert seen == [key.key_id for key in reversed(made)]
    stolen = pb.GetSessionKeysRequest(
        user_id="00000000-0000-0000-0000-000000000001", page_token=request.page_token
    )
    assert fields_of(await failure(service.sessions().GetSessionKeys(stolen))) == ["page_token"]
    assert await keys_of(service, "00000000-0000-0000-0000-000000000001") == []


async def test_key_is_recorded_and_exported_and_holds_no_secret(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(with_turn(live_settings))
    tokens = await service.new_session()
    key = await issue(service, tokens, client=ClientContext(ip="192.0.2.9"))
    made = await turn(service, tokens)
    events = await service.fetch(
        "SELECT type, user_id, session_id, host(ip) AS ip, caller, detail FROM audit_events"
        " WHERE type IN ('session_key.issue', 'turn_credentials.create') ORDER BY event_id"
    )
    assert [event["type"] for event in events] == ["session_key.issue", "turn_credentials.create"]
    for event in events:
        assert str(event["user_id"]) == tokens.user_id
        assert str(event["session_id"]) == tokens.session_id
        assert made.password not in event["detail"]
    assert events[0]["ip"] == "192.0.2.9"
    said = json.loads(events[0]["detail"])
    assert said["key_id"] == key.key_id
    assert (said["purpose"], said["kind"]) == ("chat", "jwk")
    parts = service.account().ExportData(
        account_pb.ExportDataRequest(), metadata=bearer(tokens.access_token)
    )
    lines = b"".join([part.json_lines async for part in parts]).splitlines()
    (line,) = [row for row in map(json.loads, lines) if row["kind"] == "session_key"]
    assert line["session_key_id"] == key.key_id
    assert line["public_key"] == key.public_jwk
    assert tokens.session_token not in MessageToJson(key)


# TURN


async def test_turn_credentials_are_those_of_the_rest_api(
    start_service: StartService, live_settings: Settings, clock: FakeClock
) -> None:
    service = await start_service(with_turn(live_settings), clock)
    tokens = await service.new_session()
    made = await turn(service, tokens, ttl=Duration(seconds=120))
    expiry = int(clock.now().timestamp()) + 120
    assert made.username == f"{expiry}:{tokens.user_id}"
    mac = hmac.digest(SECRET.encode(), made.username.encode(), "sha1")
    assert made.password == base64.b64encode(mac).decode()
    assert made.ttl.ToSeconds() == 120
    assert list(made.uris) == URIS
    assert (await turn(service, tokens)).ttl.ToSeconds() == 3_600
    for seconds in (0, 3_601):
        error = await failure(turn(service, tokens, ttl=Duration(seconds=seconds)))
        assert fields_of(error) == ["ttl"]


async def test_turn_uses_first_secret_and_configured_hash(
    start_service: StartService, live_settings: Settings
) -> None:
    secrets = ["the-newest-turn-secret", SECRET]
    service = await start_service(with_turn(live_settings, secrets=secrets, algorithm="sha256"))
    made = await turn(service, await service.new_session())
    mac = hmac.digest(secrets[0].encode(), made.username.encode(), "sha256")
    assert made.password == base64.b64encode(mac).decode()


async def test_turn_never_outlives_the_session(
    start_service: StartService, live_settings: Settings, clock: FakeClock
) -> None:
    settings = with_changes(
        with_turn(live_settings), "sessions", absolute_lifetime=timedelta(seconds=90)
    )
    service = await start_service(settings, clock)
    made = await turn(service, await service.new_session())
    assert made.ttl.ToSeconds() == 90
    assert made.username.startswith(f"{int(clock.now().timestamp()) + 90}:")


async def test_turn_without_servers_is_refused(service: Service) -> None:
    error = await failure(turn(service, await service.new_session()))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(error) == "NOT_CONFIGURED"
    assert error.details() == "No TURN server is configured."


async def test_turn_of_ended_session_or_foreign_csrf_token_is_refused(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(with_turn(live_settings))
    tokens = await service.new_session()
    assert await outcome(turn(service, tokens, csrf_token="x")) == "SESSION_INVALID"
    await turn(service, tokens, csrf_token=tokens.csrf_token)
    await _logout(service, tokens)
    assert await outcome(turn(service, tokens)) == "SESSION_INVALID"
