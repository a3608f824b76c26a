"""Owns the log lines of calls: one for each call, except what anybody could cause without end.

What a caller without a role does, and failures that come in floods, are sampled: the first lines of
each kind are written whole, the others counted in a summary. Audit events are never sampled.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import structlog

from authsvc.errors import Reason, ServiceError
from authsvc.rpc.call_context import CallContext
from authsvc.rpc.status import CODES

log = structlog.get_logger("authsvc.rpc")

_LEVELS = {
    Reason.INTERNAL: logging.ERROR,
    Reason.STORE_UNAVAILABLE: logging.WARNING,
    Reason.OVERLOADED: logging.WARNING,
    Reason.CALLER_NOT_ALLOWED: logging.WARNING,
}
# Outcomes that come in floods, whoever calls; the others answer what a user did.
_FLOODS = frozenset({*_LEVELS, Reason.SERVICE_STOPPING, "CANCELLED", "DEADLINE_EXCEEDED"})

_WINDOW_SECONDS = 10.0
_WHOLE_LINES = 5
_MAX_KINDS = 100


class Kind(NamedTuple):
    """Lines that look alike; of callers without a role, whatever they call."""

    caller: str
    outcome: str
    method: str


_OTHERS = Kind("(others)", "", "")


class Sampler:
    """Passes the first lines of each kind within ten seconds, and reports how many it left out.

    Of a hundred kinds each; further ones, such as those of callers with many certificates, count as
    one.
    """

    def __init__(self, report: Callable[[Kind, int], None]) -> None:
        self._report = report
        self._seen: Counter[Kind] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def passes(self, kind: Kind) -> bool:
        """Return whether to write a line of this kind; otherwise it is counted."""
        if kind not in self._seen and len(self._seen) >= _MAX_KINDS:
            kind = _OTHERS
        self._seen[kind] += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WINDOW_SECONDS, self.flush)
        return self._seen[kind] <= _WHOLE_LINES

    def flush(self) -> None:
        """Report what was left out, and begin again."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        seen, self._seen = self._seen, Counter()
        for kind, count in seen.items():
            if count > _WHOLE_LINES:
                self._report(kind, count - _WHOLE_LINES)


class CallLog:
    """Writes the lines of all calls."""

    def __init__(self) -> None:
        self._sampler = Sampler(_report)

    def method(self, method: str, *, read_only: bool) -> "MethodLog":
        """Return the log of one RPC."""
        return MethodLog(self._sampler, method, read_only=read_only)

    def flush(self) -> None:
        """Write what was counted so far."""
        self._sampler.flush()


class MethodLog:
    """Writes the lines of one RPC's calls."""

    def __init__(self, sampler: Sampler, method: str, *, read_only: bool) -> None:
        self._sampler = sampler
        self._method = method
        self._log = structlog.get_logger("authsvc.rpc").bind(method=method)
        self._success = logging.DEBUG if read_only else logging.INFO
        self.logs_success = bool(self._log.is_enabled_for(self._success))

    def succeeded(self, call: CallContext, seconds: float) -> None:
        """Log a call that ended with OK, if `logs_success`."""
        self._log.log(
            self._success, "call", caller=call.caller.identity, status="OK", seconds=seconds
        )

    def ended(self, call: CallContext, code: str, seconds: float) -> None:
        """Log a call that was cancelled, or aborted by its handler."""
        if self._passes(call, code):
            self._log.info("call_ended", caller=call.key, status=code, seconds=seconds)

    def failed(
        self, call: CallContext, error: Exception, reported: ServiceError, seconds: float
    ) -> None:
        """Log a call that failed by `error`, which its caller saw as `reported`."""
        reason = reported.reason
        if not self._passes(call, reason):
            return
        causes = [*getattr(error, "__notes__", ())]
        if error.__cause__ is not None:
            causes.append(f"{type(error.__cause__).__name__}: {error.__cause__}")
        more: dict[str, Any] = {"cause": "; ".join(causes)} if causes else {}
        if reported is not error:
            more["exc_info"] = error
        self._log.log(
            _LEVELS.get(reason, logging.INFO),
            "call_failed",
            caller=call.key,
            status=CODES[reason].name,
            reason=reason.value,
            seconds=seconds,
            **more,
        )

    def _passes(self, call: CallContext, outcome: str) -> bool:
        if not call.caller.roles:
            return self._sampler.passes(Kind(call.key, outcome, ""))
        if outcome in _FLOODS:
            return self._sampler.passes(Kind(call.key, outcome, self._method))
        return True


def _report(kind: Kind, count: int) -> None:
    more = {name: value for name, value in kind._asdict().items() if value}
    log.warning("calls_not_logged", count=count, **more)
