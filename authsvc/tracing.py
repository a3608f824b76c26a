"""Owns traces: which calls are traced, their spans, and the headers that join services' traces.

Nothing here needs OpenTelemetry: `authsvc.telemetry` sends what is recorded. In a call that is not
traced, `SPAN` is None, and nothing is recorded.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from enum import IntEnum
from random import Random
from secrets import token_hex
from time import monotonic, perf_counter, time_ns
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeAlias

from authsvc.conventions import DROPPED_SPANS, ERROR_TYPE

Attributes: TypeAlias = Mapping[str, str | int]

# Of a call with more spans, such as an import, the others are only counted.
MAX_SPANS = 128
_TRACEPARENT = re.compile(
    r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII
)
_MEMBER = r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
_TRACESTATE = re.compile(rf"{_MEMBER}(?:[ \t]*,[ \t]*{_MEMBER}){{0,31}}", re.ASCII)
_MAX_STATE = 512


class SpanKind(IntEnum):
    """What a span is of, in the numbers of OTLP."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3


class Parent(NamedTuple):
    """The span of another service that a call belongs to."""

    trace_id: str
    span_id: str
    sampled: bool
    state: str


def read_parent(headers: Iterable[tuple[str, str | bytes]]) -> Parent | None:
    """Return what `traceparent` and `tracestate` say (W3C Trace Context, sections 3.2 and 3.3).

    Returns None if there is not exactly one valid `traceparent`. An invalid `tracestate` is left
    out.
    """
    texts = [value for key, value in headers if key == "traceparent"]
    match = _TRACEPARENT.fullmatch(texts[0]) if texts and isinstance(texts[0], str) else None
    if match is None or len(texts) > 1:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    # Later versions may append to the four parts of version 00.
    if (
        version == "ff"
        or (version == "00" and more)
        or not (int(trace_id, 16) and int(span_id, 16))
    ):
        return None
    state = ",".join(str(value) for key, value in headers if key == "tracestate")
    if len(state) > _MAX_STATE or not _TRACESTATE.fullmatch(state):
        state = ""
    return Parent(trace_id, span_id, bool(int(flags, 16) & 1), state)


class _Trace:
    """What the spans of one call share."""

    __slots__ = ("dropped", "id", "is_open", "room", "sink", "state")

    def __init__(self, trace_id: str, state: str, sink: "Callable[[Span], object]") -> None:
        self.id = trace_id
        self.state = state
        self.sink = sink
        self.room = MAX_SPANS - 1
        self.dropped = 0
        # A task that outlives its call adds nothing to it.
        self.is_open = True


class Span:
    """A part of a traced call; `start` and `end` are in nanoseconds of Unix time.

    Within a `with` block, it is current, and what is raised there is noted as its `error.type`.
    """

    __slots__ = (
        "_began",
        "_token",
        "_trace",
        "attributes",
        "end",
        "failed",
        "id",
        "kind",
        "name",
        "parent_id",
        "start",
    )
    _token: Token[Any]

    def __init__(
        self,
        *,
        trace: _Trace,
        parent_id: str,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        began: float,
    ) -> None:
        self._trace = trace
        self._began = began
        self.id = token_hex(8)
        self.parent_id = parent_id
        self.name = name
        self.kind = kind
        self.attributes = dict(attributes)
        self.start = self.end = time_ns() - int((perf_counter() - began) * 1e9)
        self.failed = False

    @property
    def trace_id(self) -> str:
        """The id of its trace."""
        return self._trace.id

    @property
    def trace_state(self) -> str:
        """The `tracestate` of its trace."""
        return self._trace.state

    @property
    def is_open(self) -> bool:
        """Whether its call is in progress."""
        return self._trace.is_open

    def child(self, name: str, kind: SpanKind, attributes: Attributes) -> "Span | None":
        """Return a new part of this span, or None if its trace has ended or has too many."""
        trace = self._trace
        if not trace.is_open:
            return None
        if not trace.room:
            trace.dropped += 1
            return None
        trace.room -= 1
        return Span(
            trace=trace,
            parent_id=self.id,
            name=name,
            kind=kind,
            attributes=attributes,
            began=perf_counter(),
        )

    def fail(self, kind: str) -> None:
        """Mark the span as failed by this kind of error."""
        self.failed = True
        self.attributes[ERROR_TYPE] = kind

    def finish(self) -> None:
        """End the span."""
        self.end = self.start + int((perf_counter() - self._began) * 1e9)
        self._trace.sink(self)

    def finish_trace(self) -> None:
        """End the span, and its trace with it."""
        self._trace.is_open = False
        if self._trace.dropped:
            self.attributes[DROPPED_SPANS] = self._trace.dropped
        self.finish()

    def __enter__(self) -> Self:
        self._token = SPAN.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        SPAN.reset(self._token)
        if error is not None:
            # Its type is one of few, while its text may quote anything.
            self.fail(getattr(error, "sqlstate", None) or type(error).__name__)
        self.finish()


SPAN: ContextVar[Span | None] = ContextVar("span", default=None)
# Of calls that are not traced too, as those that they cause belong to it.
_PARENT: ContextVar[Parent | None] = ContextVar("parent", default=None)


@contextmanager
def span(
    name: str, kind: SpanKind = SpanKind.INTERNAL, attributes: Attributes | None = None
) -> Iterator[Span | None]:
    """Record the block as part of the current call; yield its span, or None if it is not traced."""
    current = SPAN.get()
    part = current.child(name, kind, attributes or {}) if current else None
    if part is None:
        yield None
        return
    with part:
        yield part


def trace_headers() -> dict[str, str]:
    """Return the headers of a request to another service: its `traceparent` and `tracestate`."""
    current, parent = SPAN.get(), _PARENT.get()
    if current is not None and current.is_open:
        trace_id, span_id, flags, state = current.trace_id, current.id, 1, current.trace_state
    elif parent is not None:
        trace_id, span_id, flags, state = parent
    else:
        return {}
    headers = {"traceparent": f"00-{trace_id}-{span_id}-{flags:02x}"}
    return headers | {"tracestate": state} if state else headers


class Tracer:
    """Decides which calls are traced: by `ratio`, or as the service that calls has decided.

    At most `max_per_second` are; `limited` says how many others would have been. `sink` gets each
    span when it ends, and must not block or raise.
    """

    def __init__(
        self, *, ratio: float, max_per_second: int, sink: Callable[[Span], object]
    ) -> None:
        self._ratio = ratio
        self._max_per_second = max_per_second
        self._sink = sink
        # Whether a call is traced is no secret, and asking the system costs more than the rest.
        self._random = Random().random  # noqa: S311 - see above
        self._second = 0
        self._traced = 0
        self.limited = 0

    def begin(
        self,
        name: str,
        kind: SpanKind,
        *,
        began: float,
        headers: Iterable[tuple[str, str | bytes]] = (),
    ) -> Span | None:
        """Return the first span of a call that began at `began`, or None if it is not traced.

        The span is current in the context of the caller of this method until that context ends.
        `headers` are those of a caller who may decide; see `read_parent`.
        """
        parent = read_parent(headers) if headers else None
        if parent is None:
            if self._random() >= self._ratio:
                return None
        else:
            _PARENT.set(parent)
            if not parent.sampled:
                return None
        if not self._take():
            return None
        trace_id, span_id, state = (
            (parent.trace_id, parent.span_id, parent.state) if parent else (token_hex(16), "", "")
        )
        trace = _Trace(trace_id, state, self._sink)
        first = Span(
            trace=trace, parent_id=span_id, name=name, kind=kind, attributes={}, began=began
        )
        SPAN.set(first)
        return first

    @contextmanager
    def job(self, name: str, attributes: Attributes) -> Iterator[None]:
        """Trace the block by itself, if it is one that is traced."""
        before = SPAN.set(None)
        first = self.begin(name, SpanKind.INTERNAL, began=perf_counter())
        try:
            yield
        except BaseException as error:
            if first is not None:
                first.fail(type(error).__name__)
            raise
        finally:
            SPAN.reset(before)
            if first is not None:
                first.attributes.update(attributes)
                first.finish_trace()

    def _take(self) -> bool:
        second = int(monotonic())
        if second != self._second:
            self._second, self._traced = second, 0
        if self._traced >= self._max_per_second:
            self.limited += 1
            return False
        self._traced += 1
        return True
