"""Owns the messages of rate limits: the validation of charges, and verdicts and policies.

Parsers work as those in `convert`.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import lru_cache

from authsvc.core.lib.slices import Slices
from authsvc.core.limits.batch import Check
from authsvc.errors import FieldInvalid
from authsvc.models.definitions import DefinedIn
from authsvc.models.ip_blocks import Screened, ScreenReason
from authsvc.models.limits import (
    MAX_REQUESTS,
    OWN_PREFIX,
    UNLIMITED,
    Algorithm,
    Charge,
    CheckResult,
    Policy,
    Verdict,
)
from authsvc.rpc.convert import between, defined_in, duration, fill_duration, lifetime, text
from authsvc.v1 import rate_limit_service_pb2 as pb

MAX_CHARGES = 16
# Atomic charges cost the database more, and lock their rows until all are decided.
MAX_BATCH_CHARGES = 2_000
MAX_COST = 1_000_000
MAX_KEY = 512
_MIN_WINDOW, _MAX_WINDOW = timedelta(seconds=1), timedelta(days=366)

# A named tuple's own constructor takes three times as long.
_new_tuple = tuple.__new__
_REQUESTS, _BURST = pb.RATE_LIMIT_BOUND_REQUESTS, pb.RATE_LIMIT_BOUND_BURST
_POLICY_NAME = re.compile(r"[a-z0-9_.-]{1,64}", re.ASCII)


def policy_name(value: str, field: str) -> str:
    """Return the name of a rate-limit policy."""
    if not _is_policy_name(value):
        raise FieldInvalid(field, 'must be 1 to 64 of a-z, 0-9, "_", "-" and "."')
    return value


@lru_cache(maxsize=1_024)
def _is_policy_name(value: str) -> bool:
    return _POLICY_NAME.fullmatch(value) is not None


def limit_key(value: str, field: str) -> str:
    """Return the key that a rate limit is counted for."""
    return text(value, field, MAX_KEY, required=True)


def cost(value: int, field: str) -> int:
    """Return how much to charge or refund: 1 to 1,000,000, and 1 for 0."""
    if not 0 <= value <= MAX_COST:
        raise FieldInvalid(field, f"must be from 0 to {MAX_COST}")
    return value or 1


def charges(
    messages: Sequence[pb.Charge], path: Callable[[], str] = lambda: "charges"
) -> list[Charge]:
    """Return 1 to 16 charges, no two with the same policy and key; `path` returns their path."""
    count = len(messages)
    if count == 1:
        # Most checks have a single charge; iterating over it would take twice as long.
        return [_charge(messages[0], path, 0)]
    if not 1 <= count <= MAX_CHARGES:
        raise FieldInvalid(path(), f"must have 1 to {MAX_CHARGES} items")
    result = [_charge(message, path, index) for index, message in enumerate(messages)]
    if len({charge[:2] for charge in result}) < count:
        raise FieldInvalid(path(), "must not name the same policy and key twice")
    return result


def _charge(message: pb.Charge, path: Callable[[], str], index: int) -> Charge:
    policy, key, units = message.policy, message.key, message.cost
    # A quick check that accepts nearly all valid charges; only the others are parsed in full.
    if not (
        _is_policy_name(policy)
        and 0 < len(key) <= MAX_KEY // 4
        and "\0" not in key
        and 0 <= units <= MAX_COST
    ):
        item = f"{path()}[{index}]"
        policy_name(policy, f"{item}.policy")
        limit_key(key, f"{item}.key")
        cost(units, f"{item}.cost")
    return _new_tuple(Charge, (policy, key, units or 1))


async def checks(messages: Sequence[pb.CheckRateLimitRequest], slices: Slices) -> list[Check]:
    """Return the checks of a batch, with at most 2000 charges; other calls run in between."""
    result: list[Check] = []
    total = 0

    def read(part: Sequence[pb.CheckRateLimitRequest]) -> None:
        nonlocal total
        for message in part:
            charged = charges(message.charges, lambda: f"checks[{len(result)}].charges")
            result.append(_new_tuple(Check, (charged, message.dry_run)))
            total += len(charged)
        if total > MAX_BATCH_CHARGES:
            raise FieldInvalid("checks", f"must have at most {MAX_BATCH_CHARGES} charges in total")

    await slices.run(read, messages)
    return result


def fill_verdict(
    message: pb.RateLimitVerdict, verdict: Verdict, compact: bool = False
) -> pb.RateLimitVerdict:
    """Set `message` to a verdict, and return it; a compact one leaves out what its reader knows.

    Filling the fields in place takes a quarter of the time of building messages for them, and a
    batch has a thousand verdicts.
    """
    policy, key, allowed, limit, remaining, retry_after, reset_after, is_burst, shadow = verdict
    message.limit = limit
    message.bound = _BURST if is_burst else _REQUESTS
    if limit == UNLIMITED:
        message.bound = pb.RATE_LIMIT_BOUND_UNLIMITED
    if shadow:
        message.shadow_rejected = True
    message.remaining = remaining
    if not compact:
        message.policy = policy
        message.key = key
    if allowed:
        message.allowed = True
    if retry_after:
        fill_duration(message.retry_after, retry_after)
    elif retry_after is not None and not compact:
        message.retry_after.SetInParent()
    fill_duration(message.reset_after, reset_after)
    return message


def check_response(result: CheckResult) -> pb.CheckRateLimitResponse:
    """Return a check's result as a message."""
    response = pb.CheckRateLimitResponse(allowed=result.allowed)
    for verdict in result.verdicts:
        fill_verdict(response.verdicts.add(), verdict)
    return response


async def batch_response(
    results: Sequence[CheckResult], slices: Slices, *, compact: bool
) -> pb.BatchCheckRateLimitsResponse:
    """Return the results of a batch as a message; other calls run in between."""
    response = pb.BatchCheckRateLimitsResponse()
    add = response.results.add

    def write(part: Iterable[CheckResult]) -> None:
        for allowed, verdicts in part:
            message = add()
            message.allowed = allowed
            for verdict in verdicts:
                fill_verdict(message.verdicts.add(), verdict, compact)

    await slices.run(write, results)
    return response


def screen_response(screened: Screened) -> pb.ScreenRequestResponse:
    """Return the decision on a request as a message."""
    if screened.reason is None:
        return pb.ScreenRequestResponse(allowed=True)
    response = pb.ScreenRequestResponse(reason=_SCREEN_REASON[screened.reason])
    if screened.retry_after is not None:
        fill_duration(response.retry_after, screened.retry_after)
    return response


def policy_messages(policies: Iterable[Policy]) -> list[pb.Policy]:
    """Return policies as messages."""
    return [policy_message(policy) for policy in policies]


def policy_message(policy: Policy) -> pb.Policy:
    """Return a policy as a message."""
    return pb.Policy(
        name=policy.name,
        algorithm=_ALGORITHM[policy.algorithm],
        requests=policy.requests,
        window=duration(policy.window.total_seconds()),
        burst=policy.burst,
        durable=policy.durable,
        unlimited=policy.unlimited,
        shadow=policy.shadow,
        defined_in=defined_in(policy.defined_in),
    )


def policy(message: pb.Policy, field: str) -> Policy:
    """Return a policy to define at run time."""
    name = own_policy_name(message.name, f"{field}.name")
    algorithms = {number: algorithm for algorithm, number in _ALGORITHM.items()}
    algorithm = algorithms.get(message.algorithm)
    if algorithm is None:
        raise FieldInvalid(f"{field}.algorithm", "must be one of the algorithms")
    requests = amount(message.requests, f"{field}.requests")
    return Policy(
        name=name,
        requests=requests,
        window=window_of(
            lifetime(message.window, f"{field}.window") if message.HasField("window") else None,
            f"{field}.window",
            is_counted=requests > 0 and not message.unlimited,
        ),
        burst=amount(message.burst, f"{field}.burst"),
        algorithm=algorithm,
        durable=message.durable,
        unlimited=message.unlimited,
        shadow=message.shadow,
        defined_in=DefinedIn.RUN_TIME,
    )


def own_policy_name(value: str, field: str) -> str:
    """Return the name of a policy that isn't one of the service's own."""
    name = policy_name(value, field)
    if name.startswith(OWN_PREFIX):
        raise FieldInvalid(field, f'must not start with "{OWN_PREFIX}", which is reserved')
    return name


def amount(value: int, field: str, least: int = 0) -> int:
    """Return the requests or the burst of a policy."""
    if not least <= value <= MAX_REQUESTS:
        raise FieldInvalid(field, f"must be from {least} to {MAX_REQUESTS}")
    return value


def window_of(value: timedelta | None, field: str, *, is_counted: bool) -> timedelta:
    """Return the window of a policy or an override; any if nothing is counted in it."""
    if value is None:
        if is_counted:
            raise FieldInvalid(field, "must be set")
        return _MIN_WINDOW
    return between(value, field, _MIN_WINDOW, _MAX_WINDOW)


_SCREEN_REASON = {
    reason: pb.ScreenReason.Value(f"SCREEN_REASON_{reason.name}") for reason in ScreenReason
}
_ALGORITHM = {
    algorithm: pb.RateLimitAlgorithm.Value(f"RATE_LIMIT_ALGORITHM_{algorithm.name}")
    for algorithm in Algorithm
}
