"""Rules for tokens that a verifier can't decide on."""

import pytest

from authsvc.client.when_degraded import AcceptStale


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_stale_knowledge_is_accepted_for_some_time_only(seconds: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        AcceptStale(seconds)
