"""Traces: which calls are traced, what becomes of their parts, and the headers between services."""

import asyncio
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from authsvc import tracing
from authsvc.conventions import DROPPED_SPANS, ERROR_TYPE
from authsvc.tracing import (
    MAX_SPANS,
    SPAN,
    Parent,
    Span,
    SpanKind,
    Tracer,
    read_parent,
    span,
    trace_headers,
)

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
INVALID = (
    "",
    "00",
    f"00-{TRACE}-{PARENT}",
    f"00-{TRACE}-{PARENT}-01-",
    f"00-{TRACE}-{PARENT}-01-more",
    f"ff-{TRACE}-{PARENT}-01",
    f"00-{'0' * 32}-{PARENT}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE.upper()}-{PARENT}-01",
    f"00-{TRACE}-{PARENT}-1",
    f"00-{TRACE[1:]}-{PARENT}-01",
    f"00-{TRACE}-{PARENT}-01\n",
    f" 00-{TRACE}-{PARENT}-01",
    f"00-{TRACE[:-1]}٣-{PARENT}-01",
)


@pytest.fixture(autouse=True)
def no_span() -> None:
    """Each test has a context of its own, in which no call is traced."""
    SPAN.set(None)
    tracing._PARENT.set(None)


def tracer(ended: list[Span] | None = None, ratio: float = 1, limit: int = 1_000) -> Tracer:
    ended = [] if ended is None else ended
    return Tracer(ratio=ratio, max_per_second=limit, sink=ended.append)


def begin(tracer: Tracer, *headers: tuple[str, str | bytes]) -> Span | None:
    SPAN.set(None)
    return tracer.begin("a.B/C", SpanKind.SERVER, began=perf_counter(), headers=headers)


# W3C Trace Context


def test_parent_is_read() -> None:
    assert read_parent([("traceparent", SAMPLED)]) == Parent(TRACE, PARENT, True, "")
    assert read_parent([("traceparent", UNSAMPLED)]) == Parent(TRACE, PARENT, False, "")
    # A later version may have more parts, and other flags.
    later = read_parent([("traceparent", f"cc-{TRACE}-{PARENT}-03-what")])
    assert later == Parent(TRACE, PARENT, True, "")


@pytest.mark.parametrize("value", INVALID)
def test_invalid_parent_is_ignored(value: str) -> None:
    assert read_parent([("traceparent", value)]) is None


def test_repeated_or_binary_parent_is_ignored() -> None:
    assert read_parent([("traceparent", SAMPLED), ("traceparent", SAMPLED)]) is None
    assert read_parent([("traceparent", SAMPLED.encode())]) is None
    assert read_parent([("tracestate", "a=1")]) is None


@pytest.mark.parametrize(
    ("values", "state"),
    [
        (["a=1", "b@v=2"], "a=1,b@v=2"),
        (["a=1 , b=2"], "a=1 , b=2"),
        (["A=1"], ""),
        (["a=1,,b=2"], ""),
        (["a=\x01"], ""),
        (["a=1\nb=2"], ""),
        ([f"a={'x' * 511}"], ""),
        ([",".join(f"k{number}=1" for number in range(33))], ""),
    ],
)
def test_state_is_kept_if_valid(values: list[str], state: str) -> None:
    headers = [("traceparent", SAMPLED), *(("tracestate", value) for value in values)]
    parent = read_parent(headers)
    assert parent is not None
    assert parent.state == state


@given(
    st.from_regex(r"[0-9a-fF]{2}-[0-9a-f]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{2}", fullmatch=True)
    | st.sampled_from(INVALID)
)
def test_parent_is_what_opentelemetry_reads(value: str) -> None:
    context = TraceContextTextMapPropagator().extract({"traceparent": value})
    theirs = get_current_span(context).get_span_context()
    ours = read_parent([("traceparent", value)])
    # It accepts blanks around the value.
    if value == value.strip():
        assert (ours is not None) == theirs.is_valid
    if ours is not None:
        assert int(ours.trace_id, 16) == theirs.trace_id
        assert int(ours.span_id, 16) == theirs.span_id
        assert ours.sampled == theirs.trace_flags.sampled


# Which calls are traced


def test_ratio_decides_without_a_parent() -> None:
    assert begin(tracer(ratio=0)) is None
    first = begin(tracer(ratio=1))
    assert first is not None
    assert first.parent_id == ""
    assert SPAN.get() is first
    half = tracer(ratio=0.5)
    traced = sum(begin(half) is not None for _ in range(1_000))
    # Outside with a probability of 1 in 10^15.
    assert 375 < traced < 625


def test_parent_decides_whatever_the_ratio_is() -> None:
    followed = begin(tracer(ratio=0), ("traceparent", SAMPLED))
    assert followed is not None
    assert (followed.trace_id, followed.parent_id) == (TRACE, PARENT)
    assert begin(tracer(ratio=1), ("traceparent", UNSAMPLED)) is None
    assert begin(tracer(ratio=0), ("traceparent", "nonsense")) is None


def test_no_more_are_traced_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5.0
    monkeypatch.setattr(tracing, "monotonic", lambda: now)
    limited = tracer(limit=3)
    asked = [begin(limited, ("traceparent", SAMPLED)) for _ in range(10)]
    assert [each is not None for each in asked] == [True] * 3 + [False] * 7
    assert limited.limited == 7
    now = 6.0
    assert begin(limited) is not None


# Parts of a call


def test_parts_are_nested() -> None:
    ended: list[Span] = []
    first = begin(tracer(ended))
    assert first is not None
    with span("outer", SpanKind.CLIENT, {"a": 1}) as outer, span("inner") as inner:
        assert outer is not None
        assert inner is not None
        assert SPAN.get() is inner
    assert SPAN.get() is first
    first.finish_trace()
    assert ended == [inner, outer, first]
    assert (outer.parent_id, inner.parent_id) == (first.id, outer.id)
    assert {each.trace_id for each in ended} == {first.trace_id}
    assert outer.attributes == {"a": 1}
    assert first.start <= outer.start <= inner.start <= inner.end <= outer.end <= first.end


def test_nothing_is_recorded_of_other_calls() -> None:
    with span("part") as part:
        assert part is None
    assert trace_headers() == {}


def test_error_is_noted_by_its_type_alone() -> None:
    ended: list[Span] = []
    begin(tracer(ended))
    with pytest.raises(ValueError, match="secret"), span("part"):
        raise ValueError("secret")
    [part] = ended
    assert part.failed
    assert part.attributes == {ERROR_TYPE: "ValueError"}


def test_large_call_has_a_bounded_number_of_parts() -> None:
    ended: list[Span] = []
    first = begin(tracer(ended))
    assert first is not None
    for _ in range(3 * MAX_SPANS):
        with span("part"):
            pass
    first.finish_trace()
    assert len(ended) == MAX_SPANS
    assert first.attributes == {DROPPED_SPANS: 2 * MAX_SPANS + 1}


async def test_task_that_outlives_its_call_adds_nothing() -> None:
    ended: list[Span] = []
    first = begin(tracer(ended))
    assert first is not None
    over = asyncio.Event()

    async def later() -> None:
        await over.wait()
        assert trace_headers() == {}
        with span("late") as late:
            assert late is None

    task = asyncio.create_task(later())
    first.finish_trace()
    over.set()
    await task
    assert ended == [first]


def test_job_is_a_trace_of_its_own() -> None:
    ended: list[Span] = []
    outer = begin(tracer())
    with pytest.raises(OSError, match="x"), tracer(ended).job("job", {"a": "b"}):
        raise OSError("x")
    [job] = ended
    assert job.attributes == {"a": "b", ERROR_TYPE: "OSError"}
    assert outer is not None
    assert job.trace_id != outer.trace_id
    assert SPAN.get() is outer


# Headers of requests that a call causes


def test_request_belongs_to_the_current_part() -> None:
    begin(tracer(), ("traceparent", SAMPLED), ("tracestate", "a=1"))
    with span("part") as part:
        assert part is not None
        assert trace_headers() == {
            "traceparent": f"00-{TRACE}-{part.id}-01",
            "tracestate": "a=1",
        }


def test_request_of_an_untraced_call_belongs_to_the_parent() -> None:
    begin(tracer(), ("traceparent", UNSAMPLED))
    assert trace_headers() == {"traceparent": UNSAMPLED}
