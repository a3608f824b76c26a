"""The messages of rate limits: compact verdicts, and batches that let other calls run."""

from collections import UserList
from collections.abc import Sequence
from typing import Any, TypeVar

import pytest

from authsvc.core.lib.slices import Slices
from authsvc.errors import FieldInvalid
from authsvc.models.limits import CheckResult, Verdict
from authsvc.rpc.rate_limit import messages
from authsvc.v1 import rate_limit_service_pb2 as pb
from tests.support.turns import PER_TURN, Loop

_Item = TypeVar("_Item")


class _Worked(UserList[_Item]):
    """A list of which each part that is taken takes time and is counted."""

    def __init__(self, loop: Loop, items: Sequence[_Item]) -> None:
        super().__init__(items)
        self._loop = loop

    def __getitem__(self, index: Any) -> Any:
        self._loop.work(0)
        return self.data[index]


def _requests(checks: int, charges: int) -> list[pb.CheckRateLimitRequest]:
    return [
        pb.CheckRateLimitRequest(
            charges=[pb.Charge(policy="api", key=f"{n}-{i}") for i in range(charges)]
        )
        for n in range(checks)
    ]


async def test_batch_is_read_in_slices() -> None:
    loop = Loop()
    requests = _Worked(loop, _requests(125, 16))
    result = await messages.checks(requests, Slices(lambda: loop.now))
    assert [len(check.charges) for check in result] == [16] * 125
    assert result[-1].charges[-1] == ("api", "124-15", 1)
    assert max(loop.done.values()) == PER_TURN


async def test_reading_stops_at_the_charge_too_many() -> None:
    loop = Loop()
    requests = _Worked(loop, _requests(1_000, 16))
    with pytest.raises(FieldInvalid, match="at most 2000 charges"):
        await messages.checks(requests, Slices(lambda: loop.now))
    assert loop.done.total() == 8


async def test_response_of_batch_is_written_in_slices() -> None:
    loop = Loop()
    verdict = Verdict("api", "k", True, 10, 9, 0.0, 1.0)
    results = _Worked(loop, [CheckResult(True, [verdict] * 16)] * 125)
    response = await messages.batch_response(results, Slices(lambda: loop.now), compact=False)
    assert [len(result.verdicts) for result in response.results] == [16] * 125
    assert max(loop.done.values()) == PER_TURN


def test_compact_verdict_leaves_out_what_its_reader_knows() -> None:
    verdict = Verdict("api", "k", True, 10, 9, 0.0, 1.0)
    for each in (verdict, verdict._replace(allowed=False, retry_after=2.5, is_burst=True)):
        whole = messages.fill_verdict(pb.RateLimitVerdict(), each)
        compact = messages.fill_verdict(pb.RateLimitVerdict(), each, compact=True)
        assert (whole.policy, whole.key) == ("api", "k")
        assert pb.RateLimitBound.Name(whole.bound) == (
            "RATE_LIMIT_BOUND_BURST" if each.is_burst else "RATE_LIMIT_BOUND_REQUESTS"
        )
        assert whole.HasField("retry_after")
        assert compact.HasField("retry_after") != each.allowed
        whole.ClearField("policy")
        whole.ClearField("key")
        if each.allowed:
            whole.ClearField("retry_after")
        assert compact == whole
