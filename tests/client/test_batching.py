"""Batches form by themselves; each item gets its own outcome, in tasks and in threads alike."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from time import monotonic

import pytest
import pytest_asyncio

from authsvc.client import ServiceTimeout, ServiceUnavailable, context, errors
from authsvc.client.batching import AioBatcher, SyncBatcher
from authsvc.client.calling import CallSettings

SETTINGS = CallSettings(timeout=60.0, retries=0, hedge_after=None)


class Calls:
    """What the batchers send: it is answered with each item in capitals, once it may go on."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.request_ids: list[str] = []
        self.failure: Exception | None = None
        self.invalid: set[str] = set()
        self.hold: set[str] = set()
        self.go_on = threading.Event()
        self._arrived = threading.Condition()

    def answer(self, items: list[str]) -> Sequence[str]:
        with self._arrived:
            self.sent.append(list(items))
            self.request_ids.append(context.request_id.get())
            self._arrived.notify_all()
        if self.hold & set(items):
            assert self.go_on.wait(60)
        if self.failure is not None:
            raise self.failure
        if self.invalid & set(items):
            raise errors.FieldInvalid("One of them is invalid.")
        return [item.upper() for item in items]

    async def answer_task(self, items: list[str]) -> Sequence[str]:
        return await asyncio.to_thread(self.answer, items)

    async def arrived(self, count: int) -> None:
        """Wait until this many calls have been made."""

        def wait() -> None:
            with self._arrived:
                assert self._arrived.wait_for(lambda: len(self.sent) >= count, 60)

        await asyncio.to_thread(wait)


Submit = Callable[..., Awaitable[str]]


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest_asyncio.fixture(params=["tasks", "threads"])
async def submit(request: pytest.FixtureRequest, calls: Calls) -> AsyncIterator[Submit]:
    """Submits an item by one of the twins; `max_weight` is 10."""
    if request.param == "tasks":
        yield AioBatcher(calls.answer_task, SETTINGS, 10).submit
        return
    batcher = SyncBatcher(calls.answer, SETTINGS, 10)
    with ThreadPoolExecutor(64) as threads:

        async def submitted(item: str, weight: int = 1) -> str:
            deadline = context.deadline.get()

            def within_thread() -> str:
                context.deadline.set(deadline)
                return batcher.submit(item, weight)

            return await asyncio.get_running_loop().run_in_executor(threads, within_thread)

        yield submitted


async def waiting(calls: Calls, submit: Submit, *items: str) -> list["asyncio.Future[str]"]:
    """Return the results of these items, while a call is in progress."""
    calls.hold = {"first"}
    first = asyncio.ensure_future(submit("first"))
    await calls.arrived(1)
    return [first, *(asyncio.ensure_future(submit(item)) for item in items)]


async def test_what_comes_during_a_call_shares_the_next(calls: Calls, submit: Submit) -> None:
    results = await waiting(calls, submit, "a", "b", "c")
    await calls.arrived(2)  # the first one is slow, and keeps nobody back for long
    calls.go_on.set()
    assert await asyncio.gather(*results) == ["FIRST", "A", "B", "C"]
    assert calls.sent[0] == ["first"]
    assert sorted(chain(*calls.sent[1:])) == ["a", "b", "c"]


async def test_one_alone_waits_for_nobody(calls: Calls, submit: Submit) -> None:
    assert [await submit(item) for item in ("a", "b")] == ["A", "B"]
    assert calls.sent == [["a"], ["b"]]


async def test_tasks_of_one_turn_share_a_call(calls: Calls) -> None:
    batcher = AioBatcher(calls.answer_task, SETTINGS, 1_000)
    items = [f"i{number}" for number in range(300)]
    results = await asyncio.gather(*map(batcher.submit, items))
    assert results == [item.upper() for item in items]
    assert calls.sent == [items]


@pytest.mark.parametrize(("count", "weight", "sizes"), [(2_500, 0, [1_000, 1_000, 500])])
async def test_call_carries_a_thousand(
    calls: Calls, count: int, weight: int, sizes: list[int]
) -> None:
    batcher = AioBatcher(calls.answer_task, SETTINGS, 10)
    results = await asyncio.gather(*(batcher.submit(f"i{n}", weight) for n in range(count)))
    assert results == [f"I{n}" for n in range(count)]
    assert [len(sent) for sent in calls.sent] == sizes


async def test_call_carries_no_more_than_its_weight(calls: Calls, submit: Submit) -> None:
    weights = [4, 4, 4, 30, 1]
    jobs = (submit(f"i{n}", weight) for n, weight in enumerate(weights))
    assert await asyncio.gather(*jobs) == [f"I{n}" for n in range(5)]
    for sent in calls.sent:
        total = sum(weights[int(item[1:])] for item in sent)
        assert total <= 10 or len(sent) == 1


async def test_error_of_the_call_reaches_everyone(calls: Calls, submit: Submit) -> None:
    calls.failure = ServiceUnavailable("Gone.")
    results = await asyncio.gather(*map(submit, "abcde"), return_exceptions=True)
    assert {str(each) for each in results} == {"UNAVAILABLE: Gone."}
    # Each has its own: raising one in several places would mix their tracebacks up.
    assert len({id(each) for each in results}) == 5


async def test_unexpected_error_reaches_everyone_and_ends_nothing(
    calls: Calls, submit: Submit
) -> None:
    calls.failure = ValueError("unexpected")
    results = await asyncio.gather(*map(submit, "abc"), return_exceptions=True)
    assert [str(each) for each in results] == ["unexpected"] * 3
    calls.failure = None
    assert await submit("d") == "D"


async def test_invalid_item_fails_alone(calls: Calls, submit: Submit) -> None:
    calls.invalid = {"c", "h"}
    results = await asyncio.gather(*map(submit, "abcdefghij"), return_exceptions=True)
    failed = [isinstance(each, errors.FieldInvalid) for each in results]
    assert [item for item, is_failed in zip("abcdefghij", failed, strict=True) if is_failed] == [
        "c",
        "h",
    ]
    assert [each for each in results if isinstance(each, str)] == [*"ABDEFGIJ"]


async def test_cancelled_waiter_harms_nobody(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("authsvc.client.batching._PATIENCE", 60.0)
    batcher = AioBatcher(calls.answer_task, SETTINGS, 1_000)
    calls.hold = {"first"}
    on_their_way = [asyncio.ensure_future(batcher.submit(item)) for item in ("first", "second")]
    await calls.arrived(1)
    waiting = [asyncio.ensure_future(batcher.submit(item)) for item in "abc"]
    await asyncio.sleep(0)  # until they have begun to wait
    cancelled = (on_their_way[0], waiting[1])
    for each in cancelled:
        each.cancel()
    await asyncio.wait(cancelled)
    calls.go_on.set()
    others = [on_their_way[1], waiting[0], waiting[2]]
    assert await asyncio.gather(*others) == ["SECOND", "A", "C"]
    assert all(each.cancelled() for each in cancelled)
    # Whoever left before the call was made is not in it.
    assert calls.sent == [["first", "second"], ["a", "c"]]


async def test_slow_call_keeps_the_next_one_back_only_for_a_while(
    calls: Calls, submit: Submit
) -> None:
    first, second = await waiting(calls, submit, "a")
    assert await second == "A"
    assert not first.done()
    calls.go_on.set()
    await first


async def test_slow_calls_are_bounded(calls: Calls, submit: Submit) -> None:
    items = [f"i{n}" for n in range(8)]
    calls.hold = set(items)
    results = []
    for number, item in enumerate(items[:4]):
        results.append(asyncio.ensure_future(submit(item)))
        await calls.arrived(number + 1)
    results += [asyncio.ensure_future(submit(item)) for item in items[4:]]
    # Only time could show that no fifth call is made; all others go together afterwards.
    calls.go_on.set()
    assert await asyncio.gather(*results) == [item.upper() for item in items]


async def test_nobody_waits_past_the_deadline(calls: Calls, submit: Submit) -> None:
    [first] = await waiting(calls, submit)
    context.deadline.set(monotonic() + 0.05)
    calls.hold = {"first", "late"}
    with pytest.raises(ServiceTimeout):
        await submit("late")
    context.deadline.set(None)
    calls.go_on.set()
    assert await first == "FIRST"
    assert await submit("next") == "NEXT"


async def test_call_for_everybody_belongs_to_no_request(calls: Calls, submit: Submit) -> None:
    context.request_id.set("request-1")
    await submit("a")
    assert calls.request_ids == [""]


async def test_storm_answers_everybody_with_their_own(calls: Calls, submit: Submit) -> None:
    async def asks(worker: int) -> None:
        for number in range(20):
            item = f"w{worker}-{number}"
            assert await submit(item) == item.upper()

    await asyncio.gather(*(asks(worker) for worker in range(50)))
    sent = list(chain(*calls.sent))
    assert len(sent) == len(set(sent)) == 1_000
    assert len(calls.sent) < 1_000
