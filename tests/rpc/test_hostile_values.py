"""Hostile values in every field of every RPC are rejected with a documented reason.

The fields come from the descriptors, so that new ones are attacked without being listed here; a new
RPC only needs a valid request.
"""

import asyncio
import io
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import SecretStr

from authsvc.config import DetectionsSettings, ImportSettings, Settings, TurnSettings
from authsvc.core.api_keys.key_text import new_api_key
from authsvc.dev.authenticator import Authenticator
from authsvc.rpc.access import ACCESS
from authsvc.v1 import account_service_pb2 as account_pb
from authsvc.v1 import admin_service_pb2 as admin_pb
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1 import rate_limit_service_pb2 as limit_pb
from authsvc.v1 import session_service_pb2 as session_pb
from authsvc.v1.common_pb2 import ClientContext, Tokens
from tests.support import (
    admin_requests,
    code_requests,
    definition_requests,
    factor_requests,
    hostile,
    oauth_requests,
    wire,
)
from tests.support.accounts import EMAIL, PASSWORD, cheap_passwords, unlimited
from tests.support.api import secrets_in
from tests.support.clock import FakeClock
from tests.support.codes import unlimited_codes
from tests.support.leaks import forms, leaks
from tests.support.passkeys import ORIGIN, bearer, begin_login, begin_registration, register
from tests.support.probe import outcome
from tests.support.provider import LocalProvider
from tests.support.service import Service, StartService
from tests.support.session_keys import new_jwk

PROTOS = Path(__file__).parents[2] / "protos" / "authsvc" / "v1"
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for module in (account_pb, admin_pb, auth_pb, limit_pb, session_pb)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
CLIENT = ClientContext(ip="192.0.2.1", user_agent="Browser/1", device_id="phone")
AT_ONCE = 16
# These record rejected attempts too: an audit event, a charge to an address, a failed login.
NOTING = {
    *code_requests.NOTING,
    *oauth_requests.NOTING,
    "/authsvc.v1.AuthService/Login",
    "/authsvc.v1.AuthService/LoginWithPasskey",
    "/authsvc.v1.AuthService/Register",
    "/authsvc.v1.AuthService/VerifyMfa",
    "/authsvc.v1.AccountService/ChangePassword",
    "/authsvc.v1.AccountService/CreateApiKey",
    "/authsvc.v1.SessionService/IssueSessionKey",
}
# The first response is enough.
ENDLESS = {
    "/authsvc.v1.AdminService/WatchAuditEvents",
    "/authsvc.v1.SessionService/WatchRevocations",
}
NOTES = {"audit_events", "rate_limits"}
_numbers = count()


def _charge(_: Tokens) -> limit_pb.Charge:
    return limit_pb.Charge(policy="upload", key=f"k{next(_numbers)}", cost=1)


def _session(tokens: Tokens) -> session_pb.ValidateSessionRequest:
    return session_pb.ValidateSessionRequest(
        session_token=tokens.session_token, client=CLIENT, csrf_token=tokens.csrf_token
    )


def _audit_filter(tokens: Tokens) -> admin_pb.AuditEventFilter:
    return admin_pb.AuditEventFilter(
        types=["user.login"],
        user_id=tokens.user_id,
        session_id=tokens.session_id,
        caller="cli",
        network="192.0.2.0/24",
        request_id="r",
    )


VALID: Mapping[str, Callable[[Tokens], Message]] = {
    **code_requests.VALID,
    **oauth_requests.VALID,
    **definition_requests.VALID,
    "AuthService/Register": lambda _: auth_pb.RegisterRequest(
        email=f"user{next(_numbers)}@example.test",
        password=PASSWORD,
        display_name="Ada",
        client=CLIENT,
    ),
    "AuthService/Login": lambda _: auth_pb.LoginRequest(
        email=EMAIL, password=PASSWORD, client=CLIENT
    ),
    "AuthService/RefreshTokens": lambda tokens: auth_pb.RefreshTokensRequest(
        refresh_token=tokens.refresh_token, client=CLIENT
    ),
    "AuthService/Logout": lambda tokens: auth_pb.LogoutRequest(refresh_token=tokens.refresh_token),
    "AuthService/ValidateToken": lambda tokens: auth_pb.ValidateTokenRequest(
        access_token=tokens.access_token, audience="authsvc", required_scopes=["read"]
    ),
    "AuthService/BatchValidateTokens": lambda tokens: auth_pb.BatchValidateTokensRequest(
        access_tokens=[tokens.access_token, "x"], audience="authsvc"
    ),
    "AuthService/ExchangeToken": lambda tokens: auth_pb.ExchangeTokenRequest(
        subject_token=tokens.access_token, audience="billing", scopes=["read"]
    ),
    "AuthService/IssueServiceToken": lambda _: auth_pb.IssueServiceTokenRequest(
        audience="billing", scopes=["invoices.read"]
    ),
    "AuthService/ValidateApiKey": lambda _: auth_pb.ValidateApiKeyRequest(
        api_key=new_api_key("authsvc"), required_scopes=["read"]
    ),
    "AuthService/GetJwks": lambda _: auth_pb.GetJwksRequest(),
    "AuthService/BeginPasskeyLogin": lambda _: auth_pb.BeginPasskeyLoginRequest(
        email=EMAIL, client=CLIENT
    ),
    "AccountService/ListFactors": lambda _: account_pb.ListFactorsRequest(),
    "AccountService/CreateApiKey": lambda _: account_pb.CreateApiKeyRequest(
        name="ci", scopes=["read"], lifetime=Duration(seconds=60), policy="api"
    ),
    "AccountService/ListApiKeys": lambda _: account_pb.ListApiKeysRequest(page_size=1),
    "AccountService/GetAccount": lambda _: account_pb.GetAccountRequest(),
    "AccountService/UpdateAccount": lambda _: account_pb.UpdateAccountRequest(display_name="Ada"),
    "AccountService/ChangePassword": lambda _: account_pb.ChangePasswordRequest(
        current_password=PASSWORD,
        new_password=f"Sketch-Of-The-Engine-{next(_numbers)}",
        end_other_sessions=True,
        client=CLIENT,
    ),
    "AccountService/ListSecurityEvents": lambda _: account_pb.ListSecurityEventsRequest(
        page_size=1
    ),
    "AccountService/ExportData": lambda _: account_pb.ExportDataRequest(),
    "AccountService/DeleteAccount": lambda _: account_pb.DeleteAccountRequest(),
    "AdminService/ImportUsers": lambda _: admin_pb.ImportUsersRequest(
        chunk=b'{"email": "import%d@example.test"}' % next(_numbers),
        firebase=admin_pb.FirebaseScrypt(
            base64_signer_key="AAAA", base64_salt_separator="Bw==", rounds=8, mem_cost=14
        ),
        dry_run=False,
    ),
    "AdminService/RevokeAllSessions": lambda tokens: admin_pb.RevokeAllSessionsRequest(
        created_before_time=Timestamp(seconds=2_000_000_000),
        created_after_time=Timestamp(seconds=1_000_000_000),
        network="192.0.2.0/24",
        authentication_method="pwd",
        user_ids=[tokens.user_id],
        dry_run=True,
    ),
    "AdminService/ImpersonateUser": lambda tokens: admin_pb.ImpersonateUserRequest(
        user_id=tokens.user_id, reason="case 4711", client=CLIENT
    ),
    "AdminService/ListSigningKeys": lambda _: admin_pb.ListSigningKeysRequest(page_size=1),
    "AdminService/RotateSigningKey": lambda _: admin_pb.RotateSigningKeyRequest(),
    **admin_requests.VALID,
    "AdminService/ListAuditEvents": lambda tokens: admin_pb.ListAuditEventsRequest(
        filter=_audit_filter(tokens),
        start_time=Timestamp(seconds=1),
        end_time=Timestamp(seconds=4_000_000_000),
        page_size=1,
    ),
    "AdminService/WatchAuditEvents": lambda tokens: admin_pb.WatchAuditEventsRequest(
        filter=_audit_filter(tokens)
    ),
    "SessionService/CreateSession": lambda tokens: session_pb.CreateSessionRequest(
        user_id=tokens.user_id, client=CLIENT, authentication_methods=["pwd"]
    ),
    "SessionService/ValidateSession": _session,
    "SessionService/BatchValidateSessions": lambda tokens: session_pb.BatchValidateSessionsRequest(
        checks=[_session(tokens)] * 2
    ),
    "SessionService/WatchRevocations": lambda _: session_pb.WatchRevocationsRequest(),
    "SessionService/GetSession": lambda tokens: session_pb.GetSessionRequest(
        session_id=tokens.session_id
    ),
    "SessionService/ListSessions": lambda tokens: session_pb.ListSessionsRequest(
        user_id=tokens.user_id, page_size=1
    ),
    "SessionService/RevokeSession": lambda tokens: session_pb.RevokeSessionRequest(
        session_id=tokens.session_id
    ),
    "SessionService/RevokeUserSessions": lambda tokens: session_pb.RevokeUserSessionsRequest(
        user_id=tokens.user_id, except_session_id=tokens.session_id
    ),
    "SessionService/IssueSessionKey": lambda tokens: session_pb.IssueSessionKeyRequest(
        session_token=tokens.session_token,
        public_jwk=new_jwk(),
        purpose="chat",
        ttl=Duration(seconds=60),
        client=CLIENT,
        csrf_token=tokens.csrf_token,
    ),
    "SessionService/GetSessionKeys": lambda tokens: session_pb.GetSessionKeysRequest(
        user_id=tokens.user_id, page_size=1
    ),
    "SessionService/CreateTurnCredentials": lambda tokens: session_pb.CreateTurnCredentialsRequest(
        session_token=tokens.session_token,
        ttl=Duration(seconds=60),
        client=CLIENT,
        csrf_token=tokens.csrf_token,
    ),
    "RateLimitService/CheckRateLimit": lambda tokens: limit_pb.CheckRateLimitRequest(
        charges=[_charge(tokens), _charge(tokens)]
    ),
    "RateLimitService/BatchCheckRateLimits": lambda tokens: limit_pb.BatchCheckRateLimitsRequest(
        checks=[limit_pb.CheckRateLimitRequest(charges=[_charge(tokens)])]
    ),
    "RateLimitService/GetRateLimit": lambda _: limit_pb.GetRateLimitRequest(
        policy="upload", key="k"
    ),
    "RateLimitService/ScreenRequest": lambda _: limit_pb.ScreenRequestRequest(
        ip="192.0.2.9", policy="api"
    ),
    "AdminService/BlockIp": lambda _: admin_pb.BlockIpRequest(
        network=f"2001:db8:{next(_numbers):x}::/48",
        duration=Duration(seconds=60),
        reason="a test",
    ),
    "AdminService/UnblockIp": lambda _: admin_pb.UnblockIpRequest(network="198.51.100.1"),
    "AdminService/ListIpBlocks": lambda _: admin_pb.ListIpBlocksRequest(page_size=1),
    "RateLimitService/RefundRateLimit": lambda _: limit_pb.RefundRateLimitRequest(
        policy="upload", key="k", cost=1
    ),
    "RateLimitService/ResetRateLimit": lambda _: limit_pb.ResetRateLimitRequest(
        policy="upload", key="k"
    ),
    "RateLimitService/ListPolicies": lambda _: limit_pb.ListPoliciesRequest(page_size=1),
}


async def _wanted_app(service: Service, tokens: Tokens) -> Message:
    await service.prove(tokens.user_id)
    return account_pb.EnrollTotpRequest(name="phone")


async def _wanted_passkey(service: Service, tokens: Tokens) -> Message:
    await service.prove(tokens.user_id)
    return account_pb.BeginPasskeyRegistrationRequest()


async def _made_passkey(service: Service, tokens: Tokens) -> Message:
    await service.prove(tokens.user_id)
    begun = await begin_registration(service, tokens)
    return account_pb.FinishPasskeyRegistrationRequest(
        challenge_id=begun.challenge_id,
        credential_json=json.dumps(Authenticator(ORIGIN).create(begun.options_json)),
        name="Phone",
    )


async def _signed_by_passkey(service: Service, tokens: Tokens) -> Message:
    device = Authenticator(ORIGIN)
    await service.prove(tokens.user_id)
    await register(service, tokens, device)
    begun = await begin_login(service, EMAIL)
    return auth_pb.LoginWithPasskeyRequest(
        challenge_id=begun.challenge_id,
        assertion_json=json.dumps(device.get(begun.options_json)),
        client=CLIENT,
    )


# Requests that are valid only once, and require other calls first.
async def _made_key(service: Service, tokens: Tokens) -> Message:
    created = await service.account().CreateApiKey(
        account_pb.CreateApiKeyRequest(name="ci"), metadata=bearer(tokens)
    )
    return account_pb.RevokeApiKeyRequest(key_id=created.key.key_id)


async def _rotated_key(service: Service, _: Tokens) -> Message:
    response = await service.admin().RotateSigningKey(admin_pb.RotateSigningKeyRequest())
    return admin_pb.RevokeSigningKeyRequest(key_id=response.active_key.key_id)


VALID_ONCE: Mapping[str, Callable[[Service, Tokens], Awaitable[Message]]] = {
    **code_requests.VALID_ONCE,
    **oauth_requests.VALID_ONCE,
    **definition_requests.VALID_ONCE,
    "AuthService/LoginWithPasskey": _signed_by_passkey,
    "AccountService/BeginPasskeyRegistration": _wanted_passkey,
    "AccountService/FinishPasskeyRegistration": _made_passkey,
    "AccountService/EnrollTotp": _wanted_app,
    "AccountService/ConfirmTotp": factor_requests.confirm,
    "AccountService/RemoveFactor": factor_requests.remove,
    "AccountService/GenerateRecoveryCodes": factor_requests.generate,
    "AuthService/VerifyMfa": factor_requests.verify,
    "AccountService/RevokeApiKey": _made_key,
    "AdminService/RevokeSigningKey": _rotated_key,
}


def documented(method: str) -> set[str]:
    """Return the reasons listed in the comment of an RPC."""
    _, service, name = re.split(r"[./](?=\w+/|\w+\Z)", method)
    for file in PROTOS.glob("*.proto"):
        text = file.read_text()
        comment = re.search(rf"((?:^ *//.*\n)+) *rpc {name}\(", text, re.MULTILINE)
        if comment is not None and f"service {service} " in text:
            words = re.sub(r"\s*//\s*", " ", comment[1])
            reasons = re.search(r"Reasons: ([A-Z_, ]+)\.", words)
            return set(reasons[1].split(", ")) if reasons else set()
    raise AssertionError(f"no proto has {method}")


class Attack:
    """The calls of one RPC, on its own service."""

    def __init__(
        self, service: Service, tokens: Tokens, method: str, made: Message | None = None
    ) -> None:
        self._made = made
        self.answers: list[Message] = []
        self.service = service
        self.tokens = tokens
        self.method = method
        access = ACCESS[method]
        self._caller = min(access.roles)
        grpc_settings = service.settings.grpc
        self.max_bytes = (
            grpc_settings.max_batch_message_bytes
            if access.batch
            else grpc_settings.max_message_bytes
        )
        self._read = grpc_settings.max_batch_message_bytes
        self._allowed = documented(method) | {"OK", "FIELD_INVALID"}
        self._metadata = (
            (("authorization", f"Bearer {tokens.access_token}"),) if access.bearer else ()
        )
        self._output = GetMessageClass(METHODS[method].output_type)

    def valid(self) -> Message:
        return self._made or VALID[self.method.removeprefix("/authsvc.v1.")](self.tokens)

    def variants(self) -> Iterator[tuple[str, bytes]]:
        """Yield names and bytes of hostile messages."""
        tokens = {
            name: getattr(self.tokens, name)
            for name in ("access_token", "refresh_token", "session_token", "csrf_token")
        }
        for path in wire.paths(METHODS[self.method].input_type):
            where = ".".join(field.name for field in path)
            for name, raw in hostile.values(path[-1], tokens):
                yield f"{where}: {name}", wire.with_field(self.valid(), path, raw)
        yield from hostile.messages(self.valid(), self.method, self.max_bytes)

    async def send(self, message: bytes) -> str:
        """Return the outcome of a call with these bytes; its response must be parseable."""

        kind = "unary_stream" if METHODS[self.method].server_streaming else "unary_unary"

        async def call() -> None:
            rpc = self.service.clients.raw(self._caller, self.method, kind)
            answer = rpc(message, metadata=self._metadata)
            raw = [await answer] if kind == "unary_unary" else await self._parts(answer)
            self.answers = [self._output.FromString(part) for part in raw]

        return await outcome(call())

    async def _parts(self, answer: Any) -> list[bytes]:
        if self.method not in ENDLESS:
            return [part async for part in answer]
        first = await answer.read()
        if first is grpc.aio.EOF:
            # Raises what the call ended with.
            return [part async for part in answer]
        answer.cancel()
        return [first]

    async def send_valid(self) -> list[Message]:
        """Make a valid call; return its messages."""
        request = self.valid()
        assert await self.send(request.SerializeToString()) == "OK"
        return [request, *self.answers]

    async def send_all(self, messages: Mapping[str, bytes]) -> dict[str, str]:
        """Send many messages; return the outcome of each call, by name."""
        names, ends = list(messages), []
        for at in range(0, len(names), AT_ONCE):
            chunk = names[at : at + AT_ONCE]
            ends += await asyncio.gather(*(self.send(messages[name]) for name in chunk))
        return dict(zip(names, ends, strict=True))

    def is_fine(self, message: bytes, end: str) -> bool:
        """Return whether a call may have this outcome; gRPC itself rejects the largest messages."""
        return end in self._allowed or (len(message) > self._read and end == "RESOURCE_EXHAUSTED")


async def stored(service: Service) -> dict[str, Any]:
    """Return for each table the number of rows, and a checksum of their contents.

    But for `server_runs` and `detection_runs`, into which the service writes by itself.
    """
    connection = await asyncpg.connect(service.settings.database.url.get_secret_value())
    tables = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition"
        " AND relnamespace = 'public'::regnamespace"
        " AND relname NOT IN ('server_runs', 'detection_runs')"
    )
    summary = "SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {} t"
    held = {}
    for (name,) in tables:
        (row,) = await connection.fetch(summary.format(name))
        held[name] = tuple(row)
    await connection.close()
    assert held.keys() >= {"users", "sessions", "audit_events", "rate_limits", "revocations"}
    return held


@pytest_asyncio.fixture
async def attack(
    request: pytest.FixtureRequest,
    lines: io.StringIO,
    start_service: StartService,
    live_settings: Settings,
    clock: FakeClock,
    provider: LocalProvider,
) -> Attack:
    """An RPC to attack; no limit on attempts interferes."""
    changes = {
        "brute_force": unlimited(),
        "passwords": cheap_passwords(),
        "codes": unlimited_codes(),
        "oauth": oauth_requests.oauth_settings(provider),
        "imports": ImportSettings(max_parallel=AT_ONCE),
        # An attack raises detections, which are stored whenever they are looked for.
        "detections": DetectionsSettings(interval=timedelta(minutes=5)),
        "turn": TurnSettings(uris=("turn:127.0.0.1",), secrets=(SecretStr("shared-with-turn"),)),
    }
    service = await start_service(live_settings.model_copy(update=changes), clock)
    tokens = await service.new_session()
    make = VALID_ONCE.get(request.param.removeprefix("/authsvc.v1."))
    made = await make(service, tokens) if make else None
    return Attack(service, tokens, request.param, made)


@pytest.mark.parametrize("attack", METHODS, indirect=True)
async def test_hostile_values_are_rejected_without_side_effects(
    attack: Attack, lines: io.StringIO
) -> None:
    service = attack.service
    await judge_valid_call(attack, lines)
    messages = dict(attack.variants())
    before = await stored(service)
    ends = await attack.send_all(messages)
    wrong = {name: end for name, end in ends.items() if not attack.is_fine(messages[name], end)}
    assert wrong == {}
    rejected = {name: messages[name] for name, end in ends.items() if end != "OK"}
    assert rejected

    if await stored(service) != before:
        # It may have been what was accepted, so what was rejected is sent once more alone.
        before = await stored(service)
        again = await attack.send_all(rejected)
        after = await stored(service)
        assert "OK" not in again.values()
        if attack.method in NOTING:
            before, after = (
                {name: rows for name, (rows, _) in held.items() if name not in NOTES}
                for held in (before, after)
            )
        assert after == before

    survivor = await service.new_session("survivor@example.test")
    assert await service.judge_token(survivor.access_token, strict=True) == ""


async def judge_valid_call(attack: Attack, lines: io.StringIO) -> None:
    """Nothing marked as a secret is logged, and a repetition changes nothing if it is allowed."""
    level = METHODS[attack.method].GetOptions().idempotency_level
    before = await stored(attack.service)
    messages = await attack.send_valid()
    after = await stored(attack.service)
    secrets = {name: forms(value) for each in messages for name, value in secrets_in(each)}
    assert leaks(lines.getvalue(), secrets) == set()
    assert '"call"' in lines.getvalue()
    if level == MethodOptions.NO_SIDE_EFFECTS:
        assert after == before
    elif level == MethodOptions.IDEMPOTENT:
        await attack.send_valid()
        assert await stored(attack.service) == after


def test_documented_reasons_are_read_from_protos() -> None:
    assert documented("/authsvc.v1.AuthService/Logout") == {
        *("REFRESH_TOKEN_INVALID", "FIELD_INVALID")
    }
    assert documented("/authsvc.v1.AuthService/GetJwks") == set()
