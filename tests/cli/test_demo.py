"""The tour's marks: what was refused as it should be, and what went wrong."""

from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
import pytest_asyncio
import typer

from authsvc.cli.demo import incident
from authsvc.cli.demo.tour import Tour
from authsvc.dev.workspace import Workspace
from authsvc.v1.session_service_pb2 import ValidateSessionRequest
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.service import Service


@pytest_asyncio.fixture
async def tour(workspace: Workspace) -> AsyncIterator[Tour]:
    """A tour of a service that is not running."""
    made = Tour(workspace.certificates, "127.0.0.1:1")
    yield made
    await made.close()


def test_accepted_and_refused_have_marks_of_their_own(
    tour: Tour, capsys: pytest.CaptureFixture[str]
) -> None:
    tour.answer("her token", "active", accepted=True, expected=True)
    tour.answer("a forged one", "MALFORMED", accepted=False)
    assert capsys.readouterr().out.splitlines() == [
        "  ✓ her token: active",
        "  ⊘ a forged one: MALFORMED · refused, as it should be",
    ]


@pytest.mark.parametrize("expected", [False, True])
def test_unexpected_answer_ends_the_tour(
    tour: Tour, capsys: pytest.CaptureFixture[str], expected: bool
) -> None:
    with pytest.raises(typer.Exit) as ended:
        tour.answer("a token", "some answer", accepted=not expected, expected=expected)
    assert ended.value.exit_code == 1
    assert capsys.readouterr().out.startswith("  ✗ a token: some answer; it should have been ")


async def test_outage_is_no_refusal(tour: Tour, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        await tour.rejected("a wrong password", tour.login(EMAIL, PASSWORD))
    assert capsys.readouterr().out.startswith("  ✗ a wrong password: UNAVAILABLE ")


async def test_success_is_no_refusal(
    tour: Tour, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    await service.register()

    async def log_in() -> None:
        await service.login()

    with pytest.raises(typer.Exit):
        await tour.rejected("a wrong password", log_in())
    assert "✗ a wrong password: succeeded" in capsys.readouterr().out


async def test_reason_of_refusal_is_printed(
    tour: Tour, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    async def log_in() -> None:
        await service.login(password="Wrong-Password-1")

    await tour.rejected("a wrong password", log_in())
    assert "⊘ a wrong password: UNAUTHENTICATED CREDENTIALS_INVALID ·" in capsys.readouterr().out


@pytest.mark.parametrize("late", [1, 1_000])
async def test_service_may_take_a_moment_to_learn_that_a_session_ended(
    tour: Tour, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], late: int
) -> None:
    answers = iter([True] * late + [False])

    async def validate(_: ValidateSessionRequest) -> SimpleNamespace:
        return SimpleNamespace(active=next(answers))

    stub = SimpleNamespace(ValidateSession=validate)
    monkeypatch.setattr(tour, "sessions", lambda _client: stub)
    monkeypatch.setattr(incident, "_WAIT", 0.5)
    if late == 1:
        await incident._ended(tour, ValidateSessionRequest())
        assert "⊘ that session now: ended" in capsys.readouterr().out
    else:
        with pytest.raises(typer.Exit):
            await incident._ended(tour, ValidateSessionRequest())
        assert "✗ that session: goes on" in capsys.readouterr().out
