"""Stops on purpose are counted where systemd gives the service a folder, and nowhere else."""

from pathlib import Path

import pytest

from authsvc.app.planned_stops import PlannedStops
from tests.support.logs import caught


def test_count_outlives_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}:/another")
    for number in range(3):
        stops = PlannedStops.of_environment()
        assert stops.count == number
        stops.note()
        # What is shown is how often it had been stopped before it started.
        assert stops.count == number
    assert [file.name for file in tmp_path.iterdir()] == ["planned_stops"]


def test_nothing_is_counted_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    stops = PlannedStops.of_environment()
    stops.note()
    assert stops.count == 0


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "9" * 10, "\xff", "1\n2\n"])
def test_damaged_count_begins_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "planned_stops").write_text(text, "latin-1")
    stops = PlannedStops(tmp_path)
    assert stops.count == 0
    stops.note()
    assert PlannedStops(tmp_path).count == 1


def test_folder_that_cannot_be_written_to_is_logged(tmp_path: Path) -> None:
    with caught() as lines:
        PlannedStops(tmp_path / "none").note()
    assert "planned_stop_not_noted" in lines.getvalue()
    assert "No such file or directory" in lines.getvalue()
