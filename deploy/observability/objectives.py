"""Owns the objectives: what is promised, how it is measured, and the alerts on their budgets.

An objective's budget is the share of events that may be bad. An alert fires when the budget is
being spent so many times too fast over a long window, and still is over a short one, so that it
ends soon after its cause. The rate over five minutes is recorded per installation, and longer
windows are averages of it: reading three days of every replica's series would cost too much.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from deploy.observability.rule import INSTALLATION, Alert, Group, Recording, Severity, Times

# What a caller sees as a failure of the service; a call that is shed is one, too.
_FAILED = 'code=~"INTERNAL|UNKNOWN|UNAVAILABLE|DATA_LOSS|DEADLINE_EXCEEDED"'
_SHED = 'reason="OVERLOADED"'
# A provider's failure is not ours, and what a replica refuses as it stops, another one serves.
_NOT_OURS = 'reason!~"PROVIDER_UNAVAILABLE|SERVICE_STOPPING"'
# Streams last for as long as their callers like. Anybody with a certificate may ask for health.
_METHODS = 'method!~".*/Watch.*|/?grpc[.]health[.].*"'
# What is refused at the door, so that a flood of strangers hides no failure.
_ADMITTED = 'reason!~"CALLER_NOT_ALLOWED|IP_BLOCKED"'
_VALIDATIONS = 'method=~".*/(ValidateToken|ValidateSession|ValidateApiKey)"'

_Rate: TypeAlias = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A promise: of all events, at most the share `budget` is bad.

    `bad_rate` and `rate` return the rate over a window, summed per installation. It takes `minimum`
    bad events within the long window to alert, so that one failure in a quiet night wakes nobody.
    """

    name: str
    alert: str
    promise: str
    budget: float
    bad_rate: _Rate
    rate: _Rate
    minimum: int

    def series(self, what: str) -> str:
        """Return the name of one of the series that are recorded for it."""
        return f"authsvc:{self.name}:{what}"


def _sum(counter: str, window: str) -> str:
    return f"sum by ({INSTALLATION}) (rate({counter}[{window}]))"


def _calls(window: str, *more: str) -> str:
    return _sum(f"authsvc_rpc_calls_total{{{', '.join((_METHODS, _ADMITTED, *more))}}}", window)


def _failures(window: str) -> str:
    # Series of failures begin with the first one.
    none = f"0 * {_calls(window)}"
    failed, shed = _calls(window, _FAILED, _NOT_OURS), _calls(window, _SHED)
    return f"({failed} or {none})\n+ ({shed} or {none})"


def _validations(window: str) -> str:
    return _sum(f"authsvc_rpc_duration_seconds_count{{{_VALIDATIONS}}}", window)


def _slow_validations(window: str) -> str:
    fast = f'authsvc_rpc_duration_seconds_bucket{{{_VALIDATIONS}, le="0.025"}}'
    return f"{_validations(window)}\n- {_sum(fast, window)}"


def _revocations(window: str) -> str:
    return _sum("authsvc_revocation_delay_seconds_count", window)


def _late_revocations(window: str) -> str:
    quick = 'authsvc_revocation_delay_seconds_bucket{le=~"1|1[.]0"}'
    return f"{_revocations(window)}\n- {_sum(quick, window)}"


OBJECTIVES = (
    Objective(
        name="availability",
        alert="AuthsvcAvailabilityBudgetBurn",
        promise="99.95 % of calls are served",
        budget=0.0005,
        bad_rate=_failures,
        rate=_calls,
        minimum=10,
    ),
    Objective(
        name="validation_latency",
        alert="AuthsvcValidationLatencyBudgetBurn",
        promise="99 % of validations take less than 25 ms",
        budget=0.01,
        bad_rate=_slow_validations,
        rate=_validations,
        minimum=10,
    ),
    Objective(
        name="revocation",
        alert="AuthsvcRevocationBudgetBurn",
        promise="99.9 % of revocations are known to each replica within a second",
        budget=0.001,
        bad_rate=_late_revocations,
        rate=_revocations,
        minimum=3,
    ),
)


@dataclass(frozen=True, slots=True)
class _Burn:
    """How many times too fast the budget is spent, over which windows, and whom that concerns."""

    factor: float
    long: str
    short: str
    severity: Severity


# Google, The Site Reliability Workbook, chapter 5: 2 % of a month's budget within an hour, 5 %
# within six, 10 % within a day or three.
_BURNS = (
    _Burn(14.4, "1h", "5m", Severity.PAGE),
    _Burn(6, "6h", "30m", Severity.PAGE),
    _Burn(3, "1d", "2h", Severity.TICKET),
    _Burn(1, "3d", "6h", Severity.TICKET),
)
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")


def recordings(times: Times) -> Iterator[Group]:
    """Yield a group of recordings for each objective."""
    for objective in OBJECTIVES:
        yield Group(f"authsvc-{objective.name}", [*_recordings(objective, times)])


def _recordings(objective: Objective, times: Times) -> Iterator[Recording]:
    bad, every = objective.series("bad_rate5m"), objective.series("rate5m")
    window = times("5m")
    yield Recording(every, objective.rate(window))
    yield Recording(bad, objective.bad_rate(window))
    for window in WINDOWS:
        averages = [f"avg_over_time({name}[{times(window)}])" for name in (bad, every)]
        yield Recording(objective.series(f"bad_ratio{window}"), " / ".join(averages))


def alerts(times: Times) -> Sequence[Group]:
    """Return the alerts on all budgets."""
    rules = [_alert(objective, burn, times) for objective in OBJECTIVES for burn in _BURNS]
    return [Group("authsvc-objectives", rules)]


def _alert(objective: Objective, burn: _Burn, times: Times) -> Alert:
    limit = f"{burn.factor} * {objective.budget}"
    bad = objective.series("bad_rate5m")
    # How often the rate is recorded is not known here, but how often it was within five minutes.
    events = (
        f"sum_over_time({bad}[{times(burn.long)}])"
        f" / count_over_time({bad}[{times('5m')}]) * {times.seconds('5m'):g}"
    )
    return Alert(
        name=objective.alert,
        severity=burn.severity,
        expr=(
            f"{objective.series(f'bad_ratio{burn.long}')} > {limit}\n"
            f"and {objective.series(f'bad_ratio{burn.short}')} > {limit}\n"
            f"and {events} >= {objective.minimum}"
        ),
        summary=f"The objective is being missed: {objective.promise}",
        description=(
            f"Of the last {burn.long}, {{{{ $value | humanizePercentage }}}} were bad, and it goes"
            f" on: more than {burn.factor:g} times the budget of {objective.budget * 100:g} %."
        ),
        labels={"objective": objective.name, "window": burn.long},
    )
