"""The messages of rate limits: compact verdicts, and batches that let other calls run."""

from collections.abc import Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

import pytest

from authsvc.errors import FieldInvalid
from authsvc.models.limits import CheckResult, Verdict
from authsvc.rpc.rate_limit import messages
from authsvc.v1 import rate_limit_service_pb2 as pb

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
# What is converted between two turns of the event loop, with the check that exceeds it.
_MOST = 500 + 15


class _Taken(Iterable[_Item]):
    """Items that count those that were taken since the last turn."""

    def __init__(self, items: Iterable[_Item]) -> None:
        self._items = items
        self.count = 0

    def __iter__(self) -> Iterator[_Item]:
        for item in self._items:
            self.count += 1
            yield item


def _run(coroutine: Coroutine[Any, Any, _Result], taken: _Taken[Any], weight: int) -> _Result:
    """Run a coroutine turn by turn, and assert that each takes few items of this weight."""
    turns = 0
    while True:
        try:
            coroutine.send(None)
        except StopIteration as end:
            assert turns > 1
            return cast("_Result", end.value)
        turns += 1
        assert taken.count * weight <= _MOST
        taken.count = 0


def _requests(checks: int, charges: int) -> list[pb.CheckRateLimitRequest]:
    return [
        pb.CheckRateLimitRequest(
            charges=[pb.Charge(policy="api", key=f"{n}-{i}") for i in range(charges)]
        )
        for n in range(checks)
    ]


@pytest.mark.parametrize(("checks", "charges"), [(1_000, 1), (1_000, 2), (125, 16)])
def test_batch_is_read_in_slices(checks: int, charges: int) -> None:
    taken = _Taken(_requests(checks, charges))
    sequence = cast("Sequence[pb.CheckRateLimitRequest]", taken)
    result = _run(messages.checks(sequence), taken, charges)
    assert [len(check.charges) for check in result] == [charges] * checks
    assert result[-1].charges[-1] == ("api", f"{checks - 1}-{charges - 1}", 1)


def test_reading_stops_at_the_charge_too_many() -> None:
    taken = _Taken(_requests(1_000, 16))
    with pytest.raises(FieldInvalid, match="at most 2000 charges"):
        _run(messages.checks(cast("Sequence[pb.CheckRateLimitRequest]", taken)), taken, 16)


@pytest.mark.parametrize(("results", "verdicts"), [(1_000, 1), (1_000, 2), (125, 16)])
def test_response_of_batch_is_written_in_slices(results: int, verdicts: int) -> None:
    verdict = Verdict("api", "k", True, 10, 9, 0.0, 1.0)
    taken = _Taken([CheckResult(True, [verdict] * verdicts)] * results)
    response = _run(messages.batch_response(taken, compact=False), taken, verdicts)
    assert [len(result.verdicts) for result in response.results] == [verdicts] * results


def test_compact_verdict_leaves_out_what_its_reader_knows() -> None:
    verdict = Verdict("api", "k", True, 10, 9, 0.0, 1.0)
    for each in (verdict, verdict._replace(allowed=False, retry_after=2.5)):
        whole = messages.fill_verdict(pb.RateLimitVerdict(), each)
        compact = messages.fill_verdict(pb.RateLimitVerdict(), each, compact=True)
        assert (whole.policy, whole.key) == ("api", "k")
        assert whole.HasField("retry_after")
        assert compact.HasField("retry_after") != each.allowed
        whole.ClearField("policy")
        whole.ClearField("key")
        if each.allowed:
            whole.ClearField("retry_after")
        assert compact == whole
