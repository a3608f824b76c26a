"""Times, spans and networks of commands: what is accepted, and what is one line of a mistake."""

from datetime import UTC, datetime, timedelta

import pytest
import typer

from authsvc.cli.arguments import network_of, span_of, time_of
from tests.cli.conftest import Command

NOW = datetime(2026, 11, 27, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2h", NOW - 2 * HOUR),
        ("0s", NOW),
        ("2026-11-27", NOW - 8 * HOUR),
        ("2026-11-27T07:00Z", NOW - HOUR),
        ("2026-11-27T07:00", NOW - HOUR),
        ("2026-11-27T09:00+02:00", NOW - HOUR),
    ],
)
def test_time_is_a_time_or_how_long_ago(text: str, expected: datetime) -> None:
    assert time_of(text, "--since", NOW) == expected
    assert time_of(text, "--since", NOW).tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    ["", "soon", "-1h", "30000d" + "0" * 20, "9999-12-31T23:59:59-12:00", "0001-01-01T00:00+12:00"],
)
def test_other_texts_are_no_time(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        time_of(text, "--since", NOW)
    assert capsys.readouterr().err.startswith("error: --since: expected a time such as")


def test_durations_are_refused_where_a_page_token_holds_for_one_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert span_of(("--start", "2026-11-27"), ("--end", None), None) == (NOW - 8 * HOUR, None)
    with pytest.raises(typer.Exit):
        span_of(("--start", "2h"), ("--end", None), None)
    assert capsys.readouterr().err == (
        "error: --start: expected a time such as 2026-01-31T12:00:00Z\n"
    )


def test_span_has_to_begin_before_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert span_of(("--since", None), ("--until", None), NOW) == (None, None)
    assert span_of(("--since", "2h"), ("--until", "1h"), NOW) == (NOW - 2 * HOUR, NOW - HOUR)
    for since in ("1h", "2h"):
        with pytest.raises(typer.Exit):
            span_of(("--since", since), ("--until", "2h"), NOW)
        assert capsys.readouterr().err == "error: --since is not before --until\n"


def test_network_is_written_in_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert network_of(None) is None
    assert network_of("::ffff:192.0.2.1") == "192.0.2.1/32"
    with pytest.raises(typer.Exit):
        network_of("192.0.2.1/24")
    assert "--network: expected an address" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("incident", "end-sessions", "--reason", "x", "--since", "1h", "--until", "2h"),
        ("incident", "require-password-change", "--reason", "x", "--since", "1h", "--until", "2h"),
        ("incident", "export", "x", "--reason", "x", "--since", "1h", "--until", "2h"),
        ("sessions", "revoke-all", "--created-after", "1h", "--older-than", "2h"),
        ("audit", "list", "--start", "2026-11-27", "--end", "2026-11-26"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_every_command_says_that_a_span_is_turned_round(
    command: Command, arguments: tuple[str, ...]
) -> None:
    result = command(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is not before" in result.stderr
