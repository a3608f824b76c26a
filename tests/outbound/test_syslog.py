"""Syslog: the form of messages, and when a real TLS server has confirmed them."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from authsvc.config import SyslogSettings
from authsvc.core.audit.forwarding import NotForwarded
from authsvc.models.audit import AuditRow
from authsvc.models.calls import Call, ClientContext
from authsvc.models.ids import UserId
from authsvc.outbound.audit_event import event_object
from authsvc.outbound.syslog import SyslogTarget, message, structured_data
from tests.support.syslog_server import SyslogServer

_ROW = AuditRow(
    event_id=UUID(int=1),
    occur_time=datetime(2026, 11, 27, 1, 2, 3, 45, tzinfo=UTC),
    type="user.login",
    call=Call("req-1", "spiffe://test/app"),
    user_id=UserId(UUID(int=2)),
    session_id=None,
    client=ClientContext("2001:db8::1", 'Mozilla "5" [x]\\\n<13>1 forged'),
    detail='{"methods": ["pwd"], "cause": "password", "accepted": true, "imported": 3}',
)


def _settings(server: SyslogServer | None = None, **changes: Any) -> SyslogSettings:
    known: dict[str, Any] = {"host": "localhost"}
    if server:
        known |= {"port": server.port, "ca_file": server.ca_file}
    return SyslogSettings.model_validate(known | changes)


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[SyslogServer]:
    async with SyslogServer(tmp_path) as serving:
        yield serving


def test_message_has_the_form_of_rfc_5424() -> None:
    text = message(_ROW, _settings(), "host.example").decode()
    header, _, rest = text.partition(" [")
    assert header == ("<109>1 2026-11-27T01:02:03.000045Z host.example authsvc - user.login")
    data, _, body = rest.rpartition("] {")
    assert data == (
        f'authsvc@32473 event_id="{UUID(int=1)}" occur_time="2026-11-27T01:02:03.000045+00:00"'
        f' type="user.login" caller="spiffe://test/app" request_id="req-1" user_id="{UUID(int=2)}"'
        r' ip="2001:db8::1" user_agent="Mozilla \"5\" [x\]\\?<13>1 forged"'
        ' detail_cause="password" detail_accepted="true" detail_imported="3"'
    )
    assert json.loads("{" + body) == event_object(_ROW)
    assert "\n" not in text


_PARAMETER = re.compile(r' ([!-~]{1,32})="((?:[^"\\\]]|\\["\\\]])*)"')


@given(value=st.text(), agent=st.text())
def test_no_value_leaves_its_parameter(value: str, agent: str) -> None:
    event = {"user_agent": agent, "detail": {"reason": value}}
    data = structured_data("authsvc@1", event)
    assert data.startswith("[authsvc@1")
    assert data.endswith("]")
    inside = data.removeprefix("[authsvc@1").removesuffix("]")
    assert _PARAMETER.sub("", inside) == ""
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", data)


async def test_batch_is_received_whole(server: SyslogServer) -> None:
    rows = [replace(_ROW, type=f"t{number}") for number in range(300)]
    target = SyslogTarget(_settings(server))
    await target.send(rows)
    bodies = [json.loads(each[each.index(b"] {") + 2 :]) for each in server.messages]
    assert [body["type"] for body in bodies] == [row.type for row in rows]


@pytest.mark.parametrize(
    ("way", "error"), [("kill", "connection|tls"), ("hang up", "tls|connection")]
)
async def test_batch_counts_only_when_the_server_ends_the_session(
    server: SyslogServer, way: str, error: str
) -> None:
    """Whatever was written before a server died may not have been read by it."""
    server.plan = [way]
    target = SyslogTarget(_settings(server))
    with pytest.raises(NotForwarded, match=error):
        await target.send([_ROW] * 50)
    assert server.messages == []
    await target.send([_ROW])
    assert len(server.messages) == 1


async def test_server_that_hangs_up_is_believed_if_the_settings_say_so(
    server: SyslogServer,
) -> None:
    server.plan = ["hang up", "kill"]
    target = SyslogTarget(_settings(server, confirm=False))
    await target.send([_ROW])
    with pytest.raises(NotForwarded):
        await target.send([_ROW] * 50)


async def test_silent_server_times_out(server: SyslogServer) -> None:
    server.plan = ["silent"]
    target = SyslogTarget(_settings(server, timeout="2s"))
    with pytest.raises(NotForwarded, match="timeout"):
        await target.send([_ROW])


async def test_untrusted_server_gets_nothing(server: SyslogServer) -> None:
    for changes in ({"ca_file": None}, {"host": "127.0.0.1"}):
        with pytest.raises(NotForwarded, match="tls"):
            await SyslogTarget(_settings(server, **changes)).send([_ROW])
    assert server.messages == []


async def test_unreachable_server_is_an_error() -> None:
    with pytest.raises(NotForwarded, match="connection"):
        await SyslogTarget(_settings(port=1)).send([_ROW])


@pytest.mark.parametrize("presents", [True, False])
async def test_certificate_is_presented(tmp_path: Path, presents: bool) -> None:
    async with SyslogServer(tmp_path, wants_certificate=True) as server:
        own = (
            {"certificate_file": server.cert_file, "key_file": server.key_file} if presents else {}
        )
        target = SyslogTarget(_settings(server, **own))
        if presents:
            await target.send([_ROW])
        else:
            with pytest.raises(NotForwarded):
                await target.send([_ROW])
        assert len(server.messages) == presents


@pytest.mark.parametrize(
    "changes",
    [{"certificate_file": "x"}, {"app_name": "two words"}, {"app_name": ""}, {"facility": 24}],
    ids=str,
)
def test_invalid_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _settings(**changes)
