"""The log: its form, what never gets into it, and that everything goes the same way."""

import asyncio
import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest
import structlog

from authsvc import log
from authsvc.config import LogSettings
from authsvc.models.calls import Role
from authsvc.v1.auth_service_pb2 import LoginRequest

SECRET = "Analytical-Engine-1843"
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _configuration() -> Iterator[None]:
    """Put back what a test configures."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def start(stream: io.StringIO | None = None, **settings: Any) -> io.StringIO:
    stream = stream or io.StringIO()
    log.configure(LogSettings.model_validate(settings), stream)
    return stream


def entries(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def logged(**values: Any) -> dict[str, Any]:
    """Return what one event becomes."""
    stream = start(format="json")
    structlog.get_logger("authsvc.test").info("something", **values)
    [entry] = entries(stream)
    return entry


def test_each_event_is_one_json_line() -> None:
    before = datetime.now(UTC)
    entry = logged(count=3, text="two\nlines", role=Role.APP)
    assert before <= datetime.fromisoformat(entry.pop("time")) <= datetime.now(UTC)
    assert entry == {
        "level": "info",
        "event": "something",
        "logger": "authsvc.test",
        "count": 3,
        "text": "two\nlines",
        "role": "app",
    }


@pytest.mark.parametrize("text", ["a\nb", "\r", "\x1b[31m", "\0", "\u2028", "\x85", '"}\n{"'])
def test_text_cannot_break_out_of_its_line(text: str) -> None:
    stream = start(format="json")
    structlog.get_logger("authsvc.test").info(text, value=text)
    line = stream.getvalue()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert line.isascii()


def test_every_line_contains_request_id() -> None:
    log.REQUEST_ID.set("request-1")
    stream = start(format="json")
    structlog.get_logger("authsvc.test").info("one")
    logging.getLogger("asyncio").warning("two")
    assert [entry["request_id"] for entry in entries(stream)] == ["request-1", "request-1"]


@pytest.mark.parametrize(
    "key",
    [
        *("password", "new_password", "PASSWORD", "access_token", "refresh_token", "session_token"),
        *("csrf_token", "token", "authorization", "cookie", "set_cookie", "code", "pepper"),
        *("client_secret", "private_key", "credentials", "api_key", "totp_code", "dsn"),
        *("recovery_codes", "password_hash", "assertion_json", "passphrase"),
    ],
)
def test_secrets_are_masked_by_key(key: str) -> None:
    entry = logged(**{key: SECRET, "inner": {key: [SECRET], "other": 1}})
    assert SECRET not in json.dumps(entry)
    assert entry[key] == "[redacted]"
    assert entry["inner"] == {key: "[redacted]", "other": 1}


@pytest.mark.parametrize(
    "key",
    ["token_id", "session_id", "key_id", "status", "reason", "token_count", "token_expire_time"],
)
def test_harmless_keys_are_not_masked(key: str) -> None:
    assert logged(**{key: "visible"})[key] == "visible"


@pytest.mark.parametrize(
    "text",
    [
        f"got {JWT}",
        f"Bearer {SECRET}",
        f"authorization: bearer {SECRET}",
        f"postgresql://authsvc:{SECRET}@db.internal/authsvc",
        f"$argon2id$v=19$m=19456,t=2,p=1${SECRET}",
    ],
)
def test_secrets_are_masked_by_pattern(text: str) -> None:
    stream = start(format="json")
    logger = structlog.get_logger("authsvc.test")
    logger.info(text, note=text, several=[text])
    logging.getLogger("other").warning(text)
    logger.error("failed", exc_info=ValueError(text))
    assert SECRET not in stream.getvalue()
    assert JWT not in stream.getvalue()
    assert len(entries(stream)) == 3


@pytest.mark.parametrize("form", ["json", "pretty"])
def test_errors_show_location_but_not_values(form: Literal["json", "pretty"]) -> None:
    stream = start(format=form)

    def fail(password: str) -> None:
        raise RuntimeError("boom", len(password))

    try:
        fail(SECRET)
    except RuntimeError:
        structlog.get_logger("authsvc.test").exception("failed")
    assert "in fail" in stream.getvalue()
    assert "RuntimeError" in stream.getvalue()
    assert SECRET not in stream.getvalue()


def test_values_of_unknown_types_show_only_their_type() -> None:
    entry = logged(request=LoginRequest(password=SECRET), thing=object())
    assert (entry["request"], entry["thing"]) == ("<LoginRequest>", "<object>")


def test_values_of_known_types_are_shown() -> None:
    entry = logged(
        user=UUID(int=1), file=Path("a/b"), at=datetime(2030, 1, 1, tzinfo=UTC), of={"a": (1, 2)}
    )
    assert entry["user"] == "00000000-0000-0000-0000-000000000001"
    assert (entry["file"], entry["at"]) == ("a/b", "2030-01-01 00:00:00+00:00")
    assert entry["of"] == {"a": [1, 2]}


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_level_filters_events(level: str, shown: list[str]) -> None:
    stream = start(format="json", level=level)
    logger = structlog.get_logger("authsvc.test")
    for name in ("debug", "info", "warning", "error"):
        getattr(logger, name)("something")
    assert [entry["level"] for entry in entries(stream)] == shown


def test_other_loggers_and_warnings_use_same_output() -> None:
    stream = start(format="json")
    logging.getLogger("aiohttp.server").error("broken %s", "pipe")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    first, second = entries(stream)
    assert (first["event"], first["logger"], first["level"]) == (
        "broken pipe",
        "aiohttp.server",
        "error",
    )
    assert (second["logger"], second["level"]) == ("py.warnings", "warning")


def test_floods_of_other_loggers_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(log, "monotonic", lambda: now)
    stream = start(format="json")
    for number in range(8):
        logging.getLogger("grpc.server").error("broken %d", number)
    logging.getLogger("aiohttp.server").error("other")
    now = 10.0
    logging.getLogger("grpc.server").error("broken %d", 8)
    events = [entry["event"] for entry in entries(stream)]
    assert events == [
        *(f"broken {number}" for number in range(5)),
        "other",
        "broken 8 (3 more lines were left out)",
    ]


async def test_asyncio_errors_use_same_output() -> None:
    stream = start(format="json")
    loop = asyncio.get_running_loop()
    loop.call_exception_handler({"message": "lost", "exception": ValueError("why")})
    [entry] = entries(stream)
    assert entry["logger"] == "asyncio"
    assert "ValueError: why" in entry["exception"]


def test_format_is_readable_on_terminal_and_json_otherwise() -> None:
    terminal = start(Terminal())
    structlog.get_logger("authsvc.test").info("something")
    assert "something" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    elsewhere = start()
    structlog.get_logger("authsvc.test").info("something")
    assert entries(elsewhere)[0]["event"] == "something"


def test_unwritable_log_raises_nothing() -> None:
    stream = start(format="json")
    stream.close()
    structlog.get_logger("authsvc.test").info("something")
