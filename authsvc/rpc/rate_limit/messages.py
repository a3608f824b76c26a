"""Owns the messages of rate limits: the validation of charges, and verdicts and policies.

Parsers work as those in `convert`.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from authsvc.errors import FieldInvalid
from authsvc.models.limits import Algorithm, Charge, CheckResult, Policy, Verdict
from authsvc.rpc.convert import duration, fill_duration, text
from authsvc.v1 import rate_limit_service_pb2 as pb

MAX_CHARGES = 16
# Atomic charges cost the database more, and lock their rows until all are decided.
MAX_BATCH_CHARGES = 2_000
MAX_COST = 1_000_000
MAX_KEY = 512

_POLICY_NAME = re.compile(r"[a-z0-9_.-]{1,64}", re.ASCII)


def policy_name(value: str, field: str) -> str:
    """Return the name of a rate-limit policy."""
    if not _POLICY_NAME.fullmatch(value):
        raise FieldInvalid(field, 'must be 1 to 64 of a-z, 0-9, "_", "-" and "."')
    return value


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
    if not 1 <= len(messages) <= MAX_CHARGES:
        raise FieldInvalid(path(), f"must have 1 to {MAX_CHARGES} items")
    result: list[Charge] = []
    for message in messages:
        policy, key, units = message.policy, message.key, message.cost
        # A quick check that accepts nearly all valid charges; only the others are parsed in full.
        if not (
            _POLICY_NAME.fullmatch(policy)
            and 0 < len(key) <= MAX_KEY // 4
            and "\0" not in key
            and 0 <= units <= MAX_COST
        ):
            item = f"{path()}[{len(result)}]"
            policy_name(policy, f"{item}.policy")
            limit_key(key, f"{item}.key")
            cost(units, f"{item}.cost")
        result.append(Charge(policy, key, units or 1))
    if len(result) > 1 and len({charge[:2] for charge in result}) < len(result):
        raise FieldInvalid(path(), "must not name the same policy and key twice")
    return result


def fill_verdict(message: pb.RateLimitVerdict, verdict: Verdict) -> pb.RateLimitVerdict:
    """Set `message` to a verdict, and return it.

    Filling the fields in place takes a quarter of the time of building messages for them, and a
    batch has a thousand verdicts.
    """
    message.policy = verdict.policy
    message.key = verdict.key
    message.allowed = verdict.allowed
    message.limit = verdict.limit
    message.remaining = verdict.remaining
    retry_after = verdict.retry_after
    if retry_after:
        fill_duration(message.retry_after, retry_after)
    elif retry_after is not None:
        message.retry_after.SetInParent()
    fill_duration(message.reset_after, verdict.reset_after)
    return message


def fill_check(
    message: pb.CheckRateLimitResponse, result: CheckResult
) -> pb.CheckRateLimitResponse:
    """Set `message` to a check's result, and return it."""
    message.allowed = result.allowed
    for verdict in result.verdicts:
        fill_verdict(message.verdicts.add(), verdict)
    return message


def policy_messages(policies: Iterable[Policy]) -> list[pb.Policy]:
    """Return policies as messages."""
    return [
        pb.Policy(
            name=policy.name,
            algorithm=_ALGORITHM[policy.algorithm],
            requests=policy.requests,
            window=duration(policy.window.total_seconds()),
            burst=policy.burst,
        )
        for policy in policies
    ]


_ALGORITHM = {
    algorithm: pb.RateLimitAlgorithm.Value(f"RATE_LIMIT_ALGORITHM_{algorithm.name}")
    for algorithm in Algorithm
}
