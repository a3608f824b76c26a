"""The search for parameters, on machines whose speed is known; the command tests the rest."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from argon2 import Parameters

from authsvc.core.passwords.argon2id import Library
from authsvc.core.passwords.calibration import FLOOR, propose, under_load

MIB = 1024


def machine(per_mib: float, *, overhead: float = 0.0) -> Callable[[Parameters], float]:
    return lambda cost: overhead + per_mib * cost.memory_cost / MIB * cost.time_cost


@pytest.mark.parametrize("per_mib", [0.0001, 0.0005, 0.002])
@pytest.mark.parametrize("target", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("limit_mib", [1, 19, 100, 4_096])
def test_proposal_takes_at_most_the_wanted_time_and_memory(
    per_mib: float, target: float, limit_mib: int
) -> None:
    measure = machine(per_mib)
    cost = propose(measure, target=target, memory_kib=limit_mib * MIB)
    assert cost.time_cost >= FLOOR.time_cost
    assert cost.memory_cost >= FLOOR.memory_cost
    if cost != FLOOR:
        assert measure(cost) <= target
        assert cost.memory_cost <= limit_mib * MIB or cost.memory_cost == FLOOR.memory_cost
        # Neither a pass nor a step of memory would fit in addition, with some tolerance.
        stronger = replace(cost, time_cost=cost.time_cost + 1)
        assert measure(stronger) > target or cost.time_cost == 64


def test_search_corrects_a_first_guess_that_was_too_high() -> None:
    # Larger hashes are slower than their size says, as they leave the processor's caches.
    def measure(cost: Parameters) -> float:
        seconds: float = 0.001 * (cost.memory_cost / MIB) ** 1.2
        return seconds

    cost = propose(measure, target=0.2, memory_kib=1_000 * MIB)
    assert 0.17 < measure(cost) <= 0.21


def test_load_counts_all_threads() -> None:
    load = under_load(
        cost=replace(FLOOR, memory_cost=8), library=Library.LIBSODIUM, threads=3, hashes=2
    )
    assert load.threads == 3
    assert load.rate > 0
    assert load.cpu_seconds > 0
