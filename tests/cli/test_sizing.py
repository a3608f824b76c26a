"""What a load needs, by the measured costs of calls."""

import json
import re
from typing import Any

import pytest
from typer.testing import CliRunner

from authsvc.cli import sizing
from authsvc.cli.main import app
from authsvc.cli.sizing import Cost, Costs
from authsvc.config import footprint
from authsvc.core.passwords import calibration
from tests.cli.conftest import plain

LOGIN = Cost(service_us=22_000, database_us=3_000, wal_bytes=5_000, stored_bytes=3_000)
CALL = Cost(service_us=250, database_us=50, wal_bytes=0, stored_bytes=0)
KINDS = {
    **dict.fromkeys(("login", "registration"), LOGIN),
    **dict.fromkeys(("validation", "session_validation"), CALL),
}
COSTS = Costs(KINDS, hash_us=20_000, memory_mb=130, measured="now")


def size(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["size", *arguments])


def test_smallest_load_still_gets_three_replicas() -> None:
    found = sizing.size({"login": 0.1}, sessions=10, costs=COSTS)
    assert (found.replicas, found.hash_threads, found.cpu_limit) == (3, 1, 2)
    assert found.database_cores == 2
    assert found.memory_request_mib < found.memory_limit_mib


def test_calls_are_spread_so_that_half_of_each_event_loop_is_free_with_one_replica_gone() -> None:
    found = sizing.size({"validation": 10_000}, sessions=10, costs=COSTS)
    # 10,000 of 250 µs keep 2.5 loops busy, of which five replicas are planned, and one more.
    assert found.replicas == 6
    assert found.service_cores == pytest.approx(2.5)
    assert found.cpu_request == 0.5
    assert found.database_cores == 2
    assert found.database_connections == 7 * 20


def test_logins_need_hashing_threads_and_their_memory() -> None:
    few, many = (sizing.size({"login": rate}, sessions=10, costs=COSTS) for rate in (10, 200))
    assert (few.hash_threads, many.hash_threads) == (1, 3)
    assert many.cpu_limit == 4
    assert many.memory_request_mib > few.memory_request_mib
    assert many.wal_mb_per_second == pytest.approx(1.0)
    assert many.stored_gb_per_day == pytest.approx(200 * 3_000 * 86_400 / 3 / 1e9)


def test_registrations_are_hashed_as_logins_are() -> None:
    logins, registrations = (
        sizing.size({kind: 200}, sessions=10, costs=COSTS) for kind in ("login", "registration")
    )
    assert registrations == logins
    # 4.4 processors, of which two replicas carry all; 70 % of the threads are busy.
    assert logins.service_cores == pytest.approx(4.4)
    assert logins.cpu_request == 2.2
    assert logins.hash_threads == 3


@pytest.mark.parametrize(
    ("validations", "replicas", "database_cores"),
    [(11_000, 7, 2), (100_000, 51, 10), (0, 3, 2)],
)
def test_half_of_each_processor_is_left_free(
    validations: int, replicas: int, database_cores: int
) -> None:
    found = sizing.size({"validation": validations}, sessions=10, costs=COSTS)
    assert (found.replicas, found.database_cores) == (replicas, database_cores)


def test_nothing_at_all_still_gets_a_tenth_of_a_processor() -> None:
    found = sizing.size({}, sessions=0, costs=COSTS)
    assert (found.cpu_request, found.service_cores) == (0.1, 0)


def test_hash_that_costs_more_than_a_login_did_leaves_nothing_below_zero() -> None:
    """As by --calibrate, which measures hashes only."""
    costs = Costs(KINDS, hash_us=30_000, memory_mb=130, measured="now")
    assert sizing.size({"login": 100}, sessions=10, costs=costs).service_cores == 3


@pytest.mark.parametrize(
    ("kind", "sessions", "cached"),
    [
        ("validation", 2_000_000, 500_000),
        ("session_validation", 1_000, 1_000),
        # Whoever verifies by itself needs no cache here.
        ("login", 1_000, 0),
    ],
)
def test_sessions_that_are_asked_for_are_cached(kind: str, sessions: int, cached: int) -> None:
    found, without = (
        sizing.size({kind: 1}, sessions=number, costs=COSTS) for number in (sessions, 0)
    )
    assert found.sessions_cached == cached
    more = cached * footprint.SESSION / 2**20
    assert abs(found.memory_request_mib - without.memory_request_mib - more) <= 32
    for figure in (found.memory_request_mib, found.memory_limit_mib):
        assert figure % 32 == 0


def test_hashing_grows_with_the_time_of_a_hash() -> None:
    usual, slow = (
        sizing.size({"login": 200}, sessions=10, costs=COSTS.scaled(each)) for each in (1, 2)
    )
    assert (usual.replicas, slow.replicas) == (3, 3)
    assert (usual.hash_threads, slow.hash_threads) == (3, 6)


def test_slower_machine_needs_more() -> None:
    load = {"login": 200, "validation": 10_000}
    usual, slow = (sizing.size(load, sessions=10, costs=COSTS.scaled(each)) for each in (1, 2))
    assert slow.replicas > usual.replicas
    assert slow.database_cores > usual.database_cores
    assert slow.wal_mb_per_second == usual.wal_mb_per_second


def test_shipped_costs_are_read_and_plausible() -> None:
    costs = sizing.read_costs()
    assert costs.calls["login"].service_us > costs.hash_us > costs.calls["validation"].service_us
    assert costs.calls["batched_check"].service_us < costs.calls["check"].service_us


def test_command_prints_what_load_needs_and_where_costs_come_from() -> None:
    found = size("--logins", "50/s", "--validations", "5000/s", "--sessions", "200000")
    assert found.exit_code == 0
    output = plain(found.stdout)
    assert "of which one may be missing" in output
    assert "sessions.cache_size = 200000" in output
    assert "Costs were measured on" in output


def test_text_says_what_json_says() -> None:
    load = ("--logins", "300/s", "--validations", "30000/s", "--sessions", "200000")
    found = json.loads(size(*load, "--json").stdout)["size"]
    text = " ".join(plain(size(*load).stdout).split())
    for said in (
        f"{found['replicas']}, of which one may be missing",
        f"{found['cpu_request']:.1f} requested, {found['cpu_limit']} at most",
        f"{found['memory_request_mib']} MiB requested, {found['memory_limit_mib']} MiB at most",
        f"{found['hash_threads']} of the processors of each",
        f"sessions.cache_size = {found['sessions_cached']}",
        f"{found['service_cores']:.2f} processors in all",
        f"{found['database_cores']} processors, max_connections {found['database_connections']}",
        f"{found['wal_mb_per_second']:.2f} MB/s",
        f"{found['stored_gb_per_day']:.2f} GB a day",
    ):
        assert f" {said}" in text
    assert len({*found.values()}) == len(found), "told apart by their numbers"
    assert "sessions.cache_size = as it is" in plain(size("--logins", "1/s").stdout)


def test_each_rate_has_an_option() -> None:
    options = {
        "logins": "login",
        "validations": "validation",
        "session-validations": "session_validation",
        "checks": "check",
        "batched-checks": "batched_check",
        "registrations": "registration",
    }
    given = [
        word for number, name in enumerate(options, 2) for word in (f"--{name}", f"{number}/s")
    ]
    rates = json.loads(size(*given, "--json").stdout)["rates"]
    assert {kind: rates[kind] for kind in options.values()} == {
        kind: number for number, kind in enumerate(options.values(), 2)
    }


@pytest.mark.parametrize(
    ("rate", "expected"),
    [("5", 5), ("1.5k/s", 1_500), ("6/min", 0.1), ("36/h", 0.01), ("8640/day", 0.1), ("2M", 2e6)],
)
def test_rate_may_be_of_any_time(rate: str, expected: float) -> None:
    rates = json.loads(size("--checks", rate, "--json").stdout)["rates"]
    assert rates["check"] == pytest.approx(expected)


def test_rates_have_units() -> None:
    rates = json.loads(size("--logins", "6k/min", "--checks", "8.64M/day", "--json").stdout)[
        "rates"
    ]
    assert rates["login"] == pytest.approx(100)
    assert rates["check"] == pytest.approx(100)
    assert rates["refresh"] == pytest.approx(1_000 / 3_600)


def test_calibration_compares_this_machine() -> None:
    found = json.loads(size("--calibrate", "--json").stdout)
    assert 0.1 < found["this_machine"] < 100
    assert re.search(r"this machine takes \d+\.\d\d times as long", size("--calibrate").stdout)
    assert "this machine" not in size().stdout


def test_calibration_scales_the_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    hash_us = sizing.read_costs().hash_us
    monkeypatch.setattr(calibration, "cpu_seconds", lambda *_: 4 * hash_us / 1e6)
    load = ("--validations", "20000/s", "--json")
    usual, slow = (json.loads(size(*load, *more).stdout) for more in ((), ("--calibrate",)))
    assert slow["this_machine"] == pytest.approx(4)
    assert slow["size"]["service_cores"] == pytest.approx(4 * usual["size"]["service_cores"])


@pytest.mark.parametrize("rate", ["", "-1/s", "fast", "5/week", "1e9", "٣/s", "2T/s", "5/s "])
def test_what_is_no_rate_is_refused_by_its_option(rate: str) -> None:
    found = size("--logins", rate)
    assert found.exit_code == 1
    assert f'--logins: "{rate}" is not a rate' in found.stderr


def test_impossible_rate_is_refused() -> None:
    assert "at most 1,000,000,000/s" in size("--checks", "9000M/s").stderr
