"""Owns when a call is sent again: after which errors, how much later, and how often in all."""

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message

from authsvc.client.errors import (
    AuthsvcError,
    Overloaded,
    ServiceStopping,
    ServiceUnavailable,
    StoreUnavailable,
)
from authsvc.client.jitter import JITTER

# What another replica may not answer.
_OF_ONE_REPLICA = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0
_MAX_TOKENS = 20.0
_TOKENS_OF_SUCCESS = 0.1


class Method:
    """What may be done with the calls of an RPC.

    Attributes:
        is_read: Whether it changes nothing, so that two at once do no harm.
    """

    def __init__(self, path: str) -> None:
        self.is_read = False
        self._is_idempotent = False
        self._has_request_id = False
        try:
            found = descriptor_pool.Default().FindMethodByName(path.strip("/").replace("/", "."))
        except KeyError:
            return  # of a service whose descriptors are not at hand
        level = found.GetOptions().idempotency_level
        self.is_read = level == MethodOptions.NO_SIDE_EFFECTS
        self._is_idempotent = level != MethodOptions.IDEMPOTENCY_UNKNOWN
        self._has_request_id = "request_id" in found.input_type.fields_by_name

    def may_repeat(self, request: Message) -> bool:
        """Return whether the request may be sent again although it may have taken effect."""
        return self._is_idempotent or (self._has_request_id and bool(request.request_id))  # type: ignore[attr-defined]


class RetryBudget:
    """Stops retries while many calls fail or are slow, so that they don't multiply the load.

    It is the retry throttling of gRPC: a failed or slow attempt takes a token, a success returns a
    tenth of one, and only with more than half of the tokens is anything sent twice.
    """

    def __init__(self) -> None:
        self._tokens = _MAX_TOKENS

    @property
    def allows(self) -> bool:
        """Whether another attempt may be made."""
        return self._tokens > _MAX_TOKENS / 2

    def succeeded(self) -> None:
        """Count a successful call."""
        if self._tokens < _MAX_TOKENS:
            self._tokens = min(_MAX_TOKENS, self._tokens + _TOKENS_OF_SUCCESS)

    def spend(self) -> None:
        """Count an attempt that could be repeated."""
        self._tokens = max(0.0, self._tokens - 1.0)


def is_transient(error: AuthsvcError) -> bool:
    """Return whether another attempt can succeed right away."""
    return isinstance(error, ServiceUnavailable | StoreUnavailable | ServiceStopping | Overloaded)


def pause_before(attempt: int, error: AuthsvcError) -> float:
    """Return how many seconds to wait before the second attempt (1), the third (2) and so on."""
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (attempt - 1))
    pause = JITTER.uniform(longest / 2, longest)
    # Another replica takes over at once from one that stops; the others have to recover first.
    if error.retry_after is None or isinstance(error, ServiceStopping):
        return pause
    return error.retry_after.total_seconds() + pause


def is_settled(failure: BaseException) -> bool:
    """Return whether a failed read would fail on another replica too."""
    return not isinstance(failure, grpc.RpcError) or failure.code() not in _OF_ONE_REPLICA
