"""The randomness that spreads load."""

import random

from authsvc.core.lib.jitter import JITTER


def test_jitter_leaves_the_shared_generator_alone() -> None:
    before = random.getstate()
    assert 0.5 <= JITTER.uniform(0.5, 1) <= 1
    assert 0 <= JITTER.random() < 1
    assert random.getstate() == before
