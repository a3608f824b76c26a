"""Every query of every panel has results on the real service under load, and can be looked at.

Grafana can't be had from a package registry, so the results are drawn on a page of our own, which
Debian's Chromium takes a picture of: `DASHBOARDS=folder` keeps the pictures.
"""

import asyncio
import math
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.rate_limit_service_pb2 import Charge, CheckRateLimitRequest
from authsvc.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from authsvc.v1.session_service_pb2 import (
    RevokeSessionRequest,
    ValidateSessionRequest,
    WatchRevocationsRequest,
)
from authsvc.v1.session_service_pb2_grpc import SessionServiceStub
from deploy.observability.board import Board, Kind
from deploy.observability.boards import BOARDS
from tests.support.accounts import WRONG
from tests.support.dashboard_page import Line, draw, height_of, legend
from tests.support.probe import outcome
from tests.support.prometheus import Prometheus
from tests.support.shell import sh
from tests.world.alerts.installation import Installation, Replica
from tests.world.alerts.scene import anybody, going_on, logged_in, registered
from tests.world.install import CHROMIUM

pytestmark = [pytest.mark.world, pytest.mark.alone, pytest.mark.timeout(900)]

_CHAPTERS = "main_job codes second_factors passkeys api_keys service_tokens account screening"
_SETTINGS = """
[rate_limits.policies.trial]
requests = 5
window = "1m"
shadow = true

[rate_limits.policies.narrow]
requests = 2
window = "1m"
"""
_VARIABLES = {
    "$__rate_interval": "10s",
    "$namespace": ".*",
    "$job": ".*",
    "$instance": ".*",
}
_WIDTH = 1_320


class _Load:
    """Callers of one replica, which do all that the dashboards show."""

    def __init__(self, replica: Replica) -> None:
        self.auth = AuthServiceStub(replica.channel("app"))
        self.edge = AuthServiceStub(replica.channel("edge"))
        self.sessions = SessionServiceStub(replica.channel("app"))
        self.validations = SessionServiceStub(replica.channel("edge"))
        self.limits = RateLimitServiceStub(replica.channel("edge"))
        self._replica = replica
        self._email = ""

    async def live(self) -> None:
        """Log in, be validated, refresh, and log out."""
        self._email = self._email or await registered(self._replica)
        tokens = await logged_in(self._replica, self._email)
        for _ in range(20):
            await self.edge.ValidateToken(
                auth_pb.ValidateTokenRequest(access_token=tokens.access_token)
            )
            await self.validations.ValidateSession(
                ValidateSessionRequest(session_token=tokens.session_token)
            )
        await self.auth.RefreshTokens(
            auth_pb.RefreshTokensRequest(refresh_token=tokens.refresh_token)
        )
        await self.sessions.RevokeSession(RevokeSessionRequest(session_id=tokens.session_id))

    async def fail(self) -> None:
        """Fail to log in, from somewhere and from nowhere, and ask for a code."""
        email, client = anybody()
        for request in (
            auth_pb.LoginRequest(email=email, password=WRONG, client=client),
            auth_pb.LoginRequest(email=email, password=WRONG),
        ):
            await outcome(self.auth.Login(request))
        await self.auth.RequestLoginCode(
            auth_pb.RequestLoginCodeRequest(email=self._email or email, client=client)
        )

    async def check(self) -> None:
        """Exceed limits of three kinds."""
        for policy in ("api", "trial", "narrow"):
            charge = Charge(policy=policy, key="caller")
            await self.limits.CheckRateLimit(CheckRateLimitRequest(charges=[charge]))

    async def watch(self) -> None:
        """Follow the revocations."""
        async for _ in self.validations.WatchRevocations(WatchRevocationsRequest()):
            pass


def test_pages_can_be_drawn_without_series() -> None:
    for board in BOARDS:
        assert draw(
            board,
            {panel.title: [] for panel in board.panels if panel.kind is Kind.LINES}
            | {
                panel.title: [Line("x", [(0.0, 1.0)])]
                for panel in board.panels
                if panel.kind is not Kind.LINES
            },
        )


async def test_every_query_has_results_and_is_drawn(
    own_server: EmbeddedPostgres, server: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        prometheus = await stack.enter_async_context(
            Prometheus(tmp_path / "prometheus", divisor=360)
        )
        installation = Installation(
            "shown",
            folder=tmp_path,
            prometheus=prometheus,
            server=server,
            settings=_SETTINGS,
        )
        await installation.prepare()
        stack.push_async_callback(installation.stop)
        replica = await installation.start()
        began = time.time()
        load = _Load(replica)
        for work in (load.live, load.fail, load.check, load.watch):
            await stack.enter_async_context(going_on(work))
        # Only for its calls: on a busy machine, one may be shed.
        await sh(f"authsvc demo {_CHAPTERS} || true", tmp_path, cwd=installation.folder)
        # An alert, for the panel that shows those that fire.
        config = installation.workspace.config
        config.write_text(f"{config.read_text()}\n[sessions]\ncache_size = 1000\n")
        replica.process.send(signal.SIGHUP)
        await prometheus.until('ALERTS{alertname="AuthsvcRestartNeeded", alertstate="firing"}')
        for board in BOARDS:
            lines, empty = await _results(prometheus, board, began)
            assert not empty, board.name
            picture = await _picture(tmp_path, board, lines)
            if folder := os.environ.get("DASHBOARDS"):
                shutil.copy(picture, folder)


async def _results(
    prometheus: Prometheus, board: Board, began: float
) -> tuple[Mapping[str, Sequence[Line]], list[str]]:
    """Return the series of each panel, and the queries without any number."""
    end = time.time()
    results: dict[str, list[Line]] = {}
    empty = []
    for panel in board.panels:
        results[panel.title] = []
        for template, expression in panel.expressions():
            query = expression
            for variable, value in _VARIABLES.items():
                query = query.replace(variable, value)
            found = await prometheus.query_range(query, began, end, max(1.0, (end - began) / 120))
            if not any(not math.isnan(value) for _, points in found for _, value in points):
                empty.append(f"{panel.title}: {query}")
            results[panel.title] += [
                Line(legend(template, labels), points) for labels, points in found
            ]
    return results, empty


async def _picture(folder: Path, board: Board, lines: Mapping[str, Sequence[Line]]) -> Path:
    """Let a browser draw a dashboard, and return the picture."""
    page, picture = folder / f"{board.name}.html", folder / f"{board.name}.png"
    page.write_text(draw(board, lines))
    process = await asyncio.create_subprocess_exec(
        *CHROMIUM.command(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'browser'}",
        f"--window-size={_WIDTH},{height_of(board)}",
        f"--screenshot={picture}",
        page.as_uri(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert picture.is_file(), output.decode()
    assert picture.read_bytes().startswith(b"\x89PNG"), output.decode()
    return picture
