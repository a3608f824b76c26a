"""The schema of audit events: complete, documented, and nothing else is recorded."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from authsvc.core.audit import schema
from authsvc.core.audit.recording import AuditEvent, AuditType, event_row
from authsvc.core.audit.schema import SCHEMA, UndeclaredDetailError
from authsvc.core.lib.clock import SystemClock
from authsvc.models.calls import Call

_PAGE = Path(__file__).parents[3] / "docs" / "audit-events.md"
_CALL = Call("r", "test")


def test_every_type_has_a_schema() -> None:
    assert set(SCHEMA) == {each.value for each in AuditType}


def test_page_documents_every_event_and_its_details() -> None:
    rows = {
        line.split("`")[1]: line.strip()
        for line in _PAGE.read_text().splitlines()
        if line.startswith("| `")
    }
    expected = {
        name: f"| `{name}` | {each.meaning} | "
        + ("<br>".join(f"`{key}`: {kind}" for key, kind in each.details.items()) or "none")
        + " |"
        for name, each in SCHEMA.items()
    }
    assert {name: rows.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    "detail",
    [{"password": "x"}, {"imported": "3"}, {"imported": True}, {"skipped": ["1"]}],
    ids=["undeclared", "text for a number", "boolean for a number", "list for a number"],
)
def test_detail_that_is_not_declared_is_not_recorded(
    detail: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    event = AuditEvent(AuditType.USERS_IMPORT, _CALL, detail={"imported": 1, **detail})  # type: ignore[dict-item] # on purpose
    with pytest.raises(UndeclaredDetailError):
        event_row(SystemClock().now(), event)
    monkeypatch.setattr(schema, "strict", False)
    with capture_logs() as logs:
        row = event_row(SystemClock().now(), event)
    assert row.detail == ("{}" if "imported" in detail else '{"imported": 1}')
    (entry,) = logs
    assert (entry["event"], entry["details"]) == ("audit_detail_undeclared", list(detail))


def test_declared_details_are_recorded_as_they_are() -> None:
    detail = {"key_id": "k", "scopes": ("read",), "policy": None, "expire_time": "t"}
    event = AuditEvent(AuditType.API_KEY_CREATE, _CALL, detail=detail)  # type: ignore[arg-type] # a policy may be None
    expected = '{"key_id": "k", "scopes": ["read"], "policy": null, "expire_time": "t"}'
    assert event_row(SystemClock().now(), event).detail == expected
