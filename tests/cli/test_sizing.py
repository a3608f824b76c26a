"""What a load needs, by the measured costs of calls."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from authsvc.cli import sizing
from authsvc.cli.main import app
from authsvc.cli.sizing import Cost, Costs
from tests.cli.conftest import plain

LOGIN = Cost(service_us=22_000, database_us=3_000, wal_bytes=5_000, stored_bytes=3_000)
CALL = Cost(service_us=250, database_us=50, wal_bytes=0, stored_bytes=0)
COSTS = Costs({"login": LOGIN, "validation": CALL}, hash_us=20_000, memory_mb=130, measured="now")


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


@pytest.mark.parametrize("rate", ["", "-1/s", "fast", "5/week", "1e9", "٣/s", "2T/s", "5/s "])
def test_what_is_no_rate_is_refused_by_its_option(rate: str) -> None:
    found = size("--logins", rate)
    assert found.exit_code == 1
    assert f'--logins: "{rate}" is not a rate' in found.stderr


def test_impossible_rate_is_refused() -> None:
    assert "at most 1,000,000,000/s" in size("--checks", "9000M/s").stderr
