"""Owns the load that may keep the event loop: the most expensive messages of each RPC."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from authsvc.core.lib import base64url
from authsvc.core.sessions.secrets import new_session_token
from authsvc.rpc.access import ACCESS
from authsvc.v1 import auth_service_pb2 as auth
from authsvc.v1 import common_pb2
from authsvc.v1 import rate_limit_service_pb2 as limits
from authsvc.v1 import session_service_pb2 as sessions
from tests.bench.processes import Target
from tests.rpc.test_hostile_values import METHODS, VALID
from tests.support import wire

_BATCH = 1_000
_AT_ONCE = 4
_MESSAGE, _LARGE_MESSAGE = 65_000, 1_048_000
_PATTERNS = ("a", "é", "e\u0301", "\ufdfa", "[", '{"a":', "a@", "https://", "0", "Aa1!")


class Turns:
    """Sends everything to one service, and asks it for its longest turn after each RPC."""

    def __init__(self, target: Target, socket: Path, tokens: Sequence[common_pb2.Tokens]) -> None:
        self._target = target
        self._socket = socket
        self._tokens = tokens
        self._next = count()

    async def measure(self) -> dict[str, float]:
        """Return the longest turn in milliseconds while each RPC was called."""
        longest = {}
        channels = {role: self._target.channel(role) for role in ("app", "edge", "issuer", "admin")}
        try:
            for name, method in METHODS.items():
                # Some of them end sessions and accounts.
                self._user = self._tokens[next(self._next) % len(self._tokens)]
                access = ACCESS[name]
                role = next((role for role in channels if role in access.roles), None)
                if role is None or (access.long_lived and method.client_streaming is False):
                    continue
                await self._take()
                await self._attack(channels[role], name, method)
                longest[name.rpartition(".")[2]] = await self._take()
        finally:
            await asyncio.gather(*(channel.close() for channel in channels.values()))
        return longest

    async def _attack(self, channel: grpc.aio.Channel, name: str, method: MethodDescriptor) -> None:
        access = ACCESS[name]
        metadata = (
            (("authorization", f"Bearer {self._user.access_token}"),) if access.bearer else ()
        )
        limit = _LARGE_MESSAGE if access.batch else _MESSAGE
        gate = asyncio.Semaphore(_AT_ONCE)

        async def send(raw: bytes) -> None:
            async with gate:
                # Most are rejected, which costs what it costs.
                with suppress(grpc.aio.AioRpcError):
                    await _call(channel, name, method, raw, metadata)

        await asyncio.gather(*map(send, self._messages(name, method, limit)))

    def _messages(self, name: str, method: MethodDescriptor, limit: int) -> Iterator[bytes]:
        short = name.removeprefix("/authsvc.v1.")
        valid: Message | None = None
        if short in VALID:
            valid = VALID[short](self._user)
            yield valid.SerializeToString()
        for batch in self._batches(short):
            yield from [batch.SerializeToString()] * (2 * _AT_ONCE)
        message = valid if valid is not None else GetMessageClass(method.input_type)()
        for path in wire.paths(method.input_type):
            for raw in _largest(path[-1], limit - 2_000):
                yield wire.with_field(message, path, raw)

    def _batches(self, name: str) -> Iterator[Message]:
        tokens = [self._tokens[number % len(self._tokens)] for number in range(_BATCH)]
        match name:
            case "AuthService/BatchValidateTokens":
                texts = [token.access_token for token in tokens]
                yield auth.BatchValidateTokensRequest(access_tokens=texts)
                yield auth.BatchValidateTokensRequest(access_tokens=map(_forged, texts))
                yield auth.BatchValidateTokensRequest(access_tokens=map(_of_unknown_key, texts))
            case "SessionService/BatchValidateSessions":
                known = [token.session_token for token in tokens]
                unknown = [new_session_token() for _ in tokens]
                for texts, strict in ((known, False), (known, True), (unknown, False)):
                    yield sessions.BatchValidateSessionsRequest(
                        checks=[_session_check(text, strict=strict) for text in texts]
                    )
            case "RateLimitService/BatchCheckRateLimits":
                yield limits.BatchCheckRateLimitsRequest(
                    checks=[
                        limits.CheckRateLimitRequest(
                            charges=[limits.Charge(policy="bench", key=secrets.token_hex(8))]
                        )
                        for _ in tokens
                    ]
                )

    async def _take(self) -> float:
        reader, writer = await asyncio.open_unix_connection(self._socket)
        longest = float(await reader.read())
        writer.close()
        return longest


async def _call(
    channel: grpc.aio.Channel,
    name: str,
    method: MethodDescriptor,
    raw: bytes,
    metadata: tuple[tuple[str, str], ...],
) -> None:
    async def stream() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield raw

    kind = f"{_kind(method.client_streaming)}_{_kind(method.server_streaming)}"
    request = stream() if method.client_streaming else raw
    call = getattr(channel, kind)(name)(request, metadata=metadata, timeout=30)
    if method.server_streaming:
        async for _ in call:
            pass
    else:
        await call


def _kind(streaming: bool) -> str:
    return "stream" if streaming else "unary"


def _largest(field: FieldDescriptor, size: int) -> Iterator[bytes]:
    """Yield encodings of a field that fill a message, and of a list of a thousand."""
    number = field.number
    if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        for pattern in _PATTERNS:
            raw = pattern.encode()
            if field.is_repeated:
                one = wire.content(number, raw * (size // _BATCH // len(raw) - 1))
                yield one * _BATCH
            else:
                yield wire.content(number, raw * (size // len(raw)))
                yield wire.content(number, raw * (256 // len(raw)))
    elif field.type == FieldDescriptor.TYPE_MESSAGE and field.is_repeated:
        yield wire.content(number, b"") * _BATCH
        yield wire.content(number, b"") * (size // 3)
    elif field.type not in (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_GROUP):
        yield wire.integer(number, 2**31 - 1)


def _session_check(session_token: str, *, strict: bool) -> sessions.ValidateSessionRequest:
    client = common_pb2.ClientContext(ip="2001:db8::1", user_agent="u" * 500, device_id="d" * 200)
    return sessions.ValidateSessionRequest(
        session_token=session_token, csrf_token="c" * 47, strict=strict, client=client
    )


def _forged(token: str) -> str:
    """Return a token with another signature of the right length: only the key can tell."""
    signed, _, signature = token.rpartition(".")
    return f"{signed}.{base64url.encode(os.urandom(len(base64url.decode(signature))))}"


def _of_unknown_key(token: str) -> str:
    header, payload, signature = token.split(".")
    text = base64url.decode(header).decode()
    key_id = base64url.encode(os.urandom(32))
    start = text.index('"kid":"') + 7
    changed = text[:start] + key_id + text[start + len(key_id) :]
    return f"{base64url.encode(changed.encode())}.{payload}.{signature}"
