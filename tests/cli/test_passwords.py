"""The command that proposes parameters for hashing on this machine."""

import json
import tomllib
from dataclasses import replace
from typing import Any

import pytest
from argon2 import Parameters
from typer.testing import CliRunner

from authsvc.cli.main import app
from authsvc.config import PasswordSettings
from authsvc.core.passwords import argon2id
from authsvc.core.passwords.argon2id import Library
from tests.cli.conftest import plain

# The CPU time of a hash of one MiB in one pass, in seconds: the default one takes 19 ms.
PER_MIB_AND_PASS = 0.0005


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose speed is known: libsodium takes half of the time of argon2-cffi."""

    def cpu_seconds(cost: Parameters, library: Library) -> float:
        argon2id.compute(b"secret", bytes(16), replace(cost, memory_cost=8))
        slower = 1 if library is Library.LIBSODIUM else 2
        return PER_MIB_AND_PASS * cost.memory_cost / 1024 * cost.time_cost * slower

    monkeypatch.setattr(argon2id, "cpu_seconds", cpu_seconds)


def calibrate(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["passwords", "calibrate", "--threads", "2", *arguments])


def proposed(*arguments: str) -> dict[str, int]:
    settings: dict[str, int] = json.loads(calibrate("--json", *arguments).stdout)["passwords"]
    return settings


def test_proposal_spends_the_time_on_memory() -> None:
    settings = proposed("--target", "50ms")
    assert settings == {
        "argon2_memory_kib": 50 * 1024,
        "argon2_time_cost": 2,
        "argon2_parallelism": 1,
        "hash_memory_mib": 288,
    }
    PasswordSettings.model_validate(settings)


def test_proposal_adds_passes_when_memory_is_used_up() -> None:
    settings = proposed("--target", "1s")
    # All threads together may take the limit.
    assert settings["argon2_memory_kib"] == 144 * 1024
    assert settings["argon2_time_cost"] == 13
    larger = proposed("--target", "1s", "--memory-limit", "1024")
    assert (larger["argon2_memory_kib"], larger["argon2_time_cost"]) == (512 * 1024, 3)
    assert larger["hash_memory_mib"] == 1024


def test_proposal_is_never_below_the_floor() -> None:
    result = calibrate("--target", "5ms")
    assert "more than 5ms, but nothing weaker is safe" in result.stdout
    settings = tomllib.loads(result.stdout[result.stdout.index("[passwords]") :])["passwords"]
    assert settings["argon2_memory_kib"] == PasswordSettings().argon2_memory_kib
    assert settings["argon2_time_cost"] == PasswordSettings().argon2_time_cost


def test_threads_that_need_more_than_the_limit_raise_it() -> None:
    settings = proposed("--target", "5ms", "--threads", "20")
    assert settings["hash_memory_mib"] == 380


def test_numbers_are_printed() -> None:
    output = plain(calibrate("--target", "50ms").stdout)
    assert "19.0 ms by libsodium and 38.0 ms by argon2-cffi: libsodium is used" in output
    assert "One hash alone: 50.0 ms of CPU." in output
    assert "100 MiB in all" in output
    assert "nothing weaker" not in output


def test_progress_is_told_outside_a_terminal_too() -> None:
    lines = calibrate("--target", "10s").stderr.splitlines()
    assert lines[0] == "Measuring 19 MiB, 2 passes, 5 hashes …"
    assert lines[-1] == "Measuring 2 at a time, 10 hashes …"
    assert len(lines) >= 4


@pytest.mark.parametrize("target", ["fast", "0s", "1d", "50"])
def test_invalid_target_is_one_line(target: str) -> None:
    result = calibrate("--target", target)
    assert result.exit_code == 1
    assert plain(result.output).startswith("error: --target: ")
    assert len(result.output.splitlines()) == 1


def test_default_number_of_threads_is_the_services() -> None:
    result = CliRunner().invoke(app, ["passwords", "calibrate", "--json", "--threads", "0"])
    assert json.loads(result.stdout)["measured"]["threads"] >= 1
