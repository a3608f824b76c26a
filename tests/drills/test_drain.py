"""Stopping under load: 200 times, directly and through a relay, and no call ends as CANCELLED."""

from collections import Counter

import pytest

from authsvc.config import Settings
from tests.support.certificates import Authority
from tests.support.clock import FakeClock
from tests.support.draining import drained, relay
from tests.support.probe import ProbeServer

ROUNDS = 200


@pytest.mark.parametrize("through_relay", [False, True])
async def test_every_call_ends_with_its_answer_or_unavailable(
    through_relay: bool, settings: Settings, clock: FakeClock, authority: Authority
) -> None:
    ended = Counter[str]()
    for _ in range(ROUNDS):
        probe = ProbeServer(settings, clock, authority)
        await probe.start()
        async with relay(probe.server.port) as port:
            address = f"127.0.0.1:{port if through_relay else probe.server.port}"
            channels = [probe.clients.open_at(address) for _ in range(10)]
            ended += await drained(probe, channels)
        await probe.stop()
    print(dict(ended))
    # About once in 600 drains through the relay, the answer of a call that was served does not
    # arrive, and its caller sees UNAVAILABLE; directly, that was never seen.
    lost = ended.pop("lost", 0)
    assert set(ended) == {"OK", "UNAVAILABLE"}
    assert through_relay or not lost
