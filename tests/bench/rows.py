"""Owns the measurements: each row of the table, its load, and its result against the budget."""

import asyncio
import secrets
import statistics
import tomllib
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import jwt
from rich.console import Console

from authsvc.core.passwords.argon2id import Library
from authsvc.core.passwords.processors import spare_processors
from authsvc.v1 import admin_service_pb2 as admin_pb
from authsvc.v1 import auth_service_pb2 as auth
from authsvc.v1 import common_pb2
from authsvc.v1 import rate_limit_service_pb2 as limits
from authsvc.v1 import session_service_pb2 as sessions
from authsvc.v1.admin_service_pb2_grpc import AdminServiceStub
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from authsvc.v1.session_service_pb2_grpc import SessionServiceStub
from tests.bench import echo as echo_server
from tests.bench import guarded
from tests.bench.argon2 import BareHash, bare_hash
from tests.bench.blocks import measure_memory, measure_propagation, spread
from tests.bench.bound import BOUND, KINDS, Lateness, measure_bound
from tests.bench.load import Sample, Work, drive, median
from tests.bench.processes import Target, metered, samples
from tests.bench.turns import Turns
from tests.bench.verifying import Verifying
from tests.bench.verifying import measure as measure_verifying
from tests.bench.watchers import measure_watchers

_USERS = 64
_PASSWORD = f"Bench-{secrets.token_hex(8)}-A1"
_CONCURRENCY = 64
_BLOCKED_IP = "203.0.113.7"
_WATCHERS = 400


class Row(NamedTuple):
    """A row of the table."""

    work: str
    result: str
    budget: str
    rate: str = ""
    cpu: str = ""
    p50: str = ""
    p99: str = ""


def _row(work: str, result: str, budget: str, sample: Sample) -> Row:
    return Row(
        work,
        result,
        budget,
        f"{sample.rate:,.0f}",
        f"{sample.cpu_us:,.0f}",
        f"{sample.p50:.2f}",
        f"{sample.p99:.2f}",
    )


def _bare_row(library: Library, hashes: list[BareHash]) -> Row:
    rate, cpu, p50 = (
        statistics.median(getattr(one, name) for one in hashes)
        for name in ("rate", "cpu_us", "p50")
    )
    return Row(f"  bare hash by {library}", "", "", f"{rate:,.1f}", f"{cpu:,.0f}", f"{p50:.2f}")


def _bound_row(kind: str, late: Lateness) -> Row:
    p50, p99, p999, longest = (late.quantile_ms(kind, share) for share in (0.5, 0.99, 0.999, 1))
    return Row(
        f"  accepted so late: {kind}",
        f"p99.9 {p999:.0f} ms, max {longest:.0f} ms",
        f"≤ {BOUND * 1_000:.0f} ms" if kind in {"cached", "streamed"} else "0 ms",
        p50=f"{p50:.1f}",
        p99=f"{p99:.1f}",
    )


class Bench:
    """Drives the echo and the service in turn, so that changes of the machine's speed hit both."""

    def __init__(
        self,
        *,
        echo: Target,
        service: Target,
        folder: Path,
        seconds: float,
        rounds: int,
        only: str,
        bound_seconds: float,
    ) -> None:
        self._echo = echo
        self._service = service
        self._folder = folder
        self._seconds = seconds
        self._rounds = rounds
        self._only = only
        self._bound_seconds = bound_seconds
        self._console = Console(stderr=True)
        self._tokens: list[common_pb2.Tokens] = []

    async def run(self) -> list[Row]:
        """Measure everything and return the rows."""
        rows: list[Row] = []
        async with (
            self._echo.channel("app") as echo,
            self._service.channel("app") as app,
            self._service.channel("edge") as edge,
            self._service.channel("admin") as admin,
        ):
            self._echo_call: Any = echo.unary_unary(echo_server.METHOD)
            self._auth, self._auth_edge = AuthServiceStub(app), AuthServiceStub(edge)
            self._sessions = SessionServiceStub(edge)
            self._limits = RateLimitServiceStub(edge)
            self._admin = AdminServiceStub(admin)
            with self._console.status("users log in …") as status:
                await self._prepare()
                for name, measure in self._plan():
                    if self._only in name:
                        status.update(f"{name} …")
                        rows += await measure()
        return rows

    def _plan(self) -> Iterator[tuple[str, Callable[[], Coroutine[Any, Any, list[Row]]]]]:
        token = self._tokens[0]
        validate = auth.ValidateTokenRequest(access_token=token.access_token)
        session = sessions.ValidateSessionRequest(
            session_token=token.session_token, csrf_token=token.csrf_token
        )
        size = len(validate.SerializeToString())
        for concurrency in (1, _CONCURRENCY):
            at = f"at {concurrency}"
            compare = self._comparison(concurrency)
            yield (
                "ValidateToken",
                compare(
                    f"ValidateToken {at}",
                    lambda _: self._auth_edge.ValidateToken(validate),
                    1.3,
                    size,
                ),
            )
            yield (
                "ValidateSession",
                compare(
                    f"ValidateSession {at}",
                    lambda _: self._sessions.ValidateSession(session),
                    1.3,
                    size,
                ),
            )
            budget = 2.5 if concurrency == 1 else 1.6
            yield (
                "CheckRateLimit",
                compare(f"CheckRateLimit {at}, many keys", self._check_many_keys, budget, 32),
            )
            yield (
                "CheckRateLimit",
                compare(f"CheckRateLimit {at}, one hot key", self._check_hot_key, budget, 32),
            )
            yield (
                "CheckRateLimit",
                compare(f"CheckRateLimit {at}, rejected", self._check_rejected, 1.3, 32),
            )
            yield (
                "ScreenRequest",
                compare(f"ScreenRequest {at}, allowed", self._screen_many, budget, 32),
            )
            yield (
                "ScreenRequest",
                compare(f"ScreenRequest {at}, blocked", self._screen_blocked, 1.3, 32),
            )
        yield "blocks", self._blocks
        yield "BatchValidateTokens", self._batch_tokens
        yield "BatchCheckRateLimits", partial(self._batch_limits, compact=False)
        yield "BatchCheckRateLimits", partial(self._batch_limits, compact=True)
        yield "RefreshTokens", self._refresh
        yield "Login", self._login
        yield "watchers of revocations", self._watchers
        yield "revocation bound", self._bound
        yield "longest turn of the event loop", self._turns
        yield "verify() with a million revocations", self._verifying
        yield "guarded service", self._guarded

    async def _prepare(self) -> None:
        gate = asyncio.Semaphore(8)

        async def user(number: int) -> common_pb2.Tokens:
            email = f"user{number}@example.com"
            # Each user has its own network, so that the limits on registrations are not reached.
            client = common_pb2.ClientContext(ip=f"2001:db8:{number:x}::1")
            async with gate:
                await self._auth.Register(
                    auth.RegisterRequest(email=email, password=_PASSWORD, client=client)
                )
                return (await self._log_in(number)).tokens

        await self._admin.BlockIp(admin_pb.BlockIpRequest(network=_BLOCKED_IP))
        self._tokens = await asyncio.gather(*(user(number) for number in range(_USERS)))

    def _log_in(self, number: int) -> grpc.aio.UnaryUnaryCall[Any, auth.LoginResponse]:
        index = number % _USERS
        client = common_pb2.ClientContext(ip=f"2001:db8:{index:x}::1")
        return self._auth.Login(
            auth.LoginRequest(email=f"user{index}@example.com", password=_PASSWORD, client=client)
        )

    def _comparison(
        self, concurrency: int
    ) -> Callable[[str, Work, float, int], Callable[[], Coroutine[Any, Any, list[Row]]]]:
        def compare(
            name: str, work: Work, budget: float, size: int
        ) -> Callable[[], Coroutine[Any, Any, list[Row]]]:
            async def measure() -> list[Row]:
                payload = b"x" * size
                pairs = []
                for number in range(self._rounds + 1):
                    seconds = self._seconds if number else 0.5
                    pair = [
                        await drive(
                            self._echo,
                            lambda _: self._echo_call(payload),
                            concurrency=concurrency,
                            seconds=seconds,
                        ),
                        await drive(self._service, work, concurrency=concurrency, seconds=seconds),
                    ]
                    if number:
                        pairs.append(pair)
                echo, service = (median([pair[side] for pair in pairs]) for side in (0, 1))
                # Pair by pair, as the machine's speed drifts.
                ratio = statistics.median(b.cpu_us / a.cpu_us for a, b in pairs)
                return [
                    _row(f"  bare echo of {size} bytes", "", "", echo),
                    _row(name, f"{ratio:.2f} × echo", f"≤ {budget} ×", service),
                ]

            return measure

        return compare

    def _check(self, policy: str, key: str) -> grpc.aio.UnaryUnaryCall[Any, Any]:
        charge = limits.Charge(policy=policy, key=key)
        return self._limits.CheckRateLimit(limits.CheckRateLimitRequest(charges=[charge]))

    def _check_many_keys(self, number: int) -> grpc.aio.UnaryUnaryCall[Any, Any]:
        return self._check("bench", f"key-{number % 10_000}")

    def _check_hot_key(self, _number: int) -> grpc.aio.UnaryUnaryCall[Any, Any]:
        return self._check("bench", "hot")

    def _check_rejected(self, _number: int) -> grpc.aio.UnaryUnaryCall[Any, Any]:
        return self._check("once", "rejected")

    def _screen(self, ip: str) -> grpc.aio.UnaryUnaryCall[Any, Any]:
        return self._limits.ScreenRequest(limits.ScreenRequestRequest(ip=ip, policy="bench"))

    def _screen_many(self, number: int) -> grpc.aio.UnaryUnaryCall[Any, Any]:
        return self._screen(f"10.0.{number // 250 % 40}.{number % 250}")

    def _screen_blocked(self, _number: int) -> grpc.aio.UnaryUnaryCall[Any, Any]:
        return self._screen(_BLOCKED_IP)

    async def _watchers(self) -> list[Row]:
        cores, _ = await measure_watchers(
            self._service, self._folder, watchers=_WATCHERS, seconds=self._seconds
        )
        return [
            Row(
                f"{_WATCHERS} watchers of 300 revocations/s",
                f"{cores:.2f} cores",
                f"≤ {_WATCHERS / 1_000} cores",
            )
        ]

    async def _bound(self) -> list[Row]:
        issuer = jwt.decode(self._tokens[0].access_token, options={"verify_signature": False})[
            "iss"
        ]
        late = await measure_bound(
            self._service,
            self._folder,
            self._tokens[0].user_id,
            issuer,
            self._bound_seconds,
        )
        count, probes = len(late.seconds["strict"]), sum(late.probes.values())
        return [
            Row("revocation bound: revocations", f"{count:,}", ""),
            Row("  probes, of which failed", f"{probes:,}, {late.failed:,}", ""),
            Row("  verifier did not know enough", f"{late.undecided:,} times", ""),
            Row("  load of the machine", f"{late.load:.1f}", ""),
            *(_bound_row(kind, late) for kind in KINDS),
        ]

    async def _blocks(self) -> list[Row]:
        rows = []
        for version in (4, 6):
            size, look_up = await asyncio.to_thread(measure_memory, version)
            rows += [
                Row(f"a million blocks of IPv{version}, memory", f"{size:.0f} MB", "≤ 100 MB"),
                Row(f"  look-up of an IPv{version} address", f"{look_up:.1f} µs", "≤ 5 µs"),
            ]
        times = await measure_propagation(self._service, self._folder)
        return [*rows, Row("a block known to another replica", spread(times), "≤ 1000 ms")]

    async def _verifying(self) -> list[Row]:
        rows = []
        found: Verifying | None = None
        for algorithm, budget in (("ES256", "≤ 1.3 ×"), ("EdDSA", "≤ 1.3 ×"), ("RS256", "")):
            found = await asyncio.to_thread(measure_verifying, algorithm)
            ratio = f"{found.new / found.bare:.2f} × {found.bare:.0f} µs"
            rows.append(Row(f"verify() of a new token, {algorithm}: × bare check", ratio, budget))
        if found is not None:
            rows += [
                Row("verify() of a seen token", f"{found.seen:.1f} µs", "≤ 5 µs"),
                Row(
                    "a million revocations, memory",
                    f"{found.memory:.0f} MB",
                    "≤ 64 MB",
                ),
                Row("  and until they have arrived", f"{found.fill:.1f} s of CPU", ""),
            ]
        return rows

    async def _guarded(self) -> list[Row]:
        settings = tomllib.loads((self._folder / "config.toml").read_text())
        issuer = settings["tokens"]["issuer"]
        token = self._tokens[0].access_token
        with samples(self._service, issuer, guarded.KINDS) as servers:
            found, ratios = await guarded.compare(
                servers, token, seconds=self._seconds, rounds=self._rounds
            )
        return [
            _row("  sample service without a guard", "", "", found["bare"]),
            _row("guarded: × calls/s", f"{ratios['bare']:.2f} ×", "≥ 0.95 ×", found["guarded"]),
            *(
                _row(f"  × one that {does}", f"{ratios[kind]:.2f} ×", "", found[kind])
                for kind, does in (
                    ("intercepted", "has an idle interceptor"),
                    ("asking", "calls ValidateToken"),
                )
            ),
        ]

    async def _batch_tokens(self) -> list[Row]:
        request = auth.BatchValidateTokensRequest(
            access_tokens=[self._tokens[i % _USERS].access_token for i in range(100)]
        )
        sample = await self._measure(lambda _: self._auth_edge.BatchValidateTokens(request), 4)
        per_token = sample.cpu_us / 100
        return [_row("BatchValidateTokens, 100", f"{per_token:.1f} µs a token", "≤ 12 µs", sample)]

    async def _batch_limits(self, *, compact: bool) -> list[Row]:
        requests = [
            limits.BatchCheckRateLimitsRequest(
                checks=[
                    limits.CheckRateLimitRequest(
                        charges=[limits.Charge(policy="bench", key=f"batch-{block}-{i}")]
                    )
                    for i in range(1_000)
                ],
                compact=compact,
            )
            for block in range(8)
        ]
        sample = await self._measure(
            lambda number: self._limits.BatchCheckRateLimits(requests[number % 8]), 4
        )
        decisions = sample.rate * 1_000
        name = f"BatchCheckRateLimits, 1000{', compact' if compact else ''}"
        return [_row(name, f"{decisions:,.0f} /s", "≥ 100,000 /s", sample)]

    async def _refresh(self) -> list[Row]:
        newest = {i: tokens.refresh_token for i, tokens in enumerate(self._tokens)}
        free = list(newest)

        async def refresh(_number: int) -> None:
            index = free.pop()
            answer = await self._auth.RefreshTokens(
                auth.RefreshTokensRequest(refresh_token=newest[index])
            )
            newest[index] = answer.tokens.refresh_token
            free.append(index)

        compare = self._comparison(_CONCURRENCY)
        return await compare(f"RefreshTokens at {_CONCURRENCY}", refresh, 3, 700)()

    async def _login(self) -> list[Row]:
        threads = spare_processors()
        at_once = 4 * (threads + 1)
        # Of a user who does not log in again, as that would end the session.
        validate = auth.ValidateTokenRequest(access_token=self._tokens[0].access_token)

        async def ask(_number: int) -> None:
            await self._auth_edge.ValidateToken(validate)

        async def log_in(number: int) -> None:
            await self._log_in(1 + number % (_USERS - 1))

        bare: dict[Library, list[BareHash]] = {library: [] for library in Library}
        alone, logins, calm, busy = [], [], [], []
        for _ in range(self._rounds):
            for library, hashes in bare.items():
                hashes.append(await asyncio.to_thread(bare_hash, library, threads, self._seconds))
            alone.append(await drive(self._service, log_in, concurrency=1, seconds=self._seconds))
            saturated = partial(drive, self._service, log_in, concurrency=at_once)
            logins.append(await saturated(seconds=2 * self._seconds))
            calm.append(await drive(self._service, ask, concurrency=1, seconds=self._seconds))
            load = asyncio.create_task(saturated(seconds=2 * self._seconds))
            await asyncio.sleep(0.5)
            busy.append(await drive(self._service, ask, concurrency=1, seconds=self._seconds))
            await load
        quiet, loaded = median(calm), median(busy)
        # The service chooses the faster library, as is done here; round by round, as the machine's
        # speed drifts.
        used = [
            min(hashes, key=lambda one: one.cpu_us) for hashes in zip(*bare.values(), strict=True)
        ]
        beyond_ms = [
            (login.cpu_us - one.cpu_us) / 1_000 for login, one in zip(logins, used, strict=True)
        ]
        of_cffi = [
            login.cpu_us / one.cpu_us
            for login, one in zip(logins, bare[Library.ARGON2_CFFI], strict=True)
        ]
        slower_ms = [login.p50 - one.p50 for login, one in zip(alone, used, strict=True)]
        return [
            *(_bare_row(library, hashes) for library, hashes in bare.items()),
            _row(
                f"Login at {at_once}, beside the bare hash",
                f"{statistics.median(beyond_ms):+.1f} ms CPU",
                "≤ +2 ms",
                median(logins),
            ),
            Row(
                "  beside the bare hash by argon2-cffi",
                f"{statistics.median(of_cffi):.2f} ×",
                "≤ 0.6 ×",
            ),
            _row(
                "Login at 1, beside the bare hash",
                f"{statistics.median(slower_ms):+.1f} ms p50",
                "≤ +3 ms",
                median(alone),
            ),
            _row("  ValidateToken, no logins", "", "", quiet),
            _row(
                "ValidateToken while logins are saturated",
                f"p99 {loaded.p99 / quiet.p99:.1f} ×",
                "≤ 3 ×",
                loaded,
            ),
        ]

    async def _turns(self) -> list[Row]:
        async with metered(self._folder) as (service, socket):
            turns = Turns(service, socket, self._tokens)
            rounds = [await turns.measure() for _ in range(self._rounds)]
        # The median, as other processes on the machine slow down even CPU time.
        longest = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
        ranked = sorted(longest.items(), key=lambda item: -item[1])
        worst = ranked[0][1]
        return [
            Row("longest turn of the event loop", f"{worst:.1f} ms", "≤ 5 ms"),
            *(Row(f"  {name}", f"{turn:.1f} ms", "") for name, turn in ranked[:5]),
        ]

    async def _measure(self, work: Work, concurrency: int) -> Sample:
        await drive(self._service, work, concurrency=concurrency, seconds=0.5)
        return median(
            [
                await drive(self._service, work, concurrency=concurrency, seconds=self._seconds)
                for _ in range(self._rounds)
            ]
        )
