"""Audit events as signed webhooks, over real HTTP."""

import base64
import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from standardwebhooks import Webhook

from authsvc.config import AuditForwardSettings, ConfigError, WebhookSettings
from authsvc.core.audit.forwarding import NotForwarded
from authsvc.core.lib.clock import SystemClock
from authsvc.models.audit import AuditRow
from authsvc.models.calls import Call, ClientContext
from authsvc.outbound.audit_target import audit_target
from authsvc.outbound.audit_webhook import AuditWebhookTarget
from authsvc.outbound.proxy import DIRECT

_SECRET = "whsec_" + base64.b64encode(os.urandom(32)).decode()
_ROW = AuditRow(
    event_id=UUID(int=1),
    occur_time=datetime(2026, 11, 27, tzinfo=UTC),
    type="user.login",
    call=Call("r", "spiffe://test/app"),
    user_id=None,
    session_id=None,
    client=ClientContext(),
    detail='{"methods": ["pwd"]}',
)


async def test_batch_is_posted_signed_and_keeps_its_id() -> None:
    posted: list[tuple[dict[str, str], bytes]] = []
    statuses = [500, 404, 204]

    async def handle(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        posted.append((headers, await request.read()))
        return web.Response(status=statuses[len(posted) - 1])

    app = web.Application()
    app.router.add_post("/hook", handle)
    async with TestServer(app) as server:
        settings = WebhookSettings.model_validate(
            {"url": str(server.make_url("/hook")), "secrets": [_SECRET]}
        )
        target = AuditWebhookTarget(settings, DIRECT, SystemClock())
        rows = [_ROW, replace(_ROW, event_id=UUID(int=2))]
        # None of the answers is final: a webhook that is missing today may be there tomorrow.
        for status in statuses[:2]:
            with pytest.raises(NotForwarded, match=f"status_{status}"):
                await target.send(rows)
        await target.send(rows)
        await target.close()
    for headers, body in posted:
        Webhook(_SECRET).verify(body, headers)
    assert len({headers["webhook-id"] for headers, _ in posted}) == 1
    assert len({body for _, body in posted}) == 1
    content = json.loads(posted[0][1])
    assert content["type"] == "audit.events"
    assert [event["event_id"] for event in content["data"]["events"]] == [
        str(UUID(int=1)),
        str(UUID(int=2)),
    ]
    assert content["data"]["events"][0]["detail"] == {"methods": ["pwd"]}


@pytest.mark.parametrize(
    "settings",
    [
        {"target": "syslog", "syslog": {"host": "localhost", "ca_file": "missing.pem"}},
        {
            "target": "webhook",
            "webhook": {"url": "https://a.test", "secrets": [_SECRET], "ca_file": "missing.pem"},
        },
    ],
    ids=["syslog", "webhook"],
)
def test_missing_file_is_an_error_of_the_settings(
    settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    forward = AuditForwardSettings.model_validate(settings)
    with pytest.raises(ConfigError, match=r"audit\.forward"):
        audit_target(forward, DIRECT, SystemClock())


def test_no_target_is_none() -> None:
    assert audit_target(AuditForwardSettings(), DIRECT, SystemClock()) is None
