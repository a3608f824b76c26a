"""Owns what the calls of both clients have in common: their settings, deadlines and channels."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from urllib.parse import unquote

from authsvc import __version__
from authsvc.client import context
from authsvc.client.certificates import Certificates
from authsvc.client.errors import AuthsvcError, ServiceStopping, ServiceTimeout
from authsvc.client.retries import RetryBudget, is_transient, pause_before

Metadata = Sequence[tuple[str, str | bytes]]

_SERVICE_CONFIG = '{"loadBalancingConfig":[{"round_robin":{}}]}'
# Longer than any connection lasts.
UNLIMITED = 86_400.0
# Of the service, `grpc.min_ping_interval` is 30 s as shipped, and pings arrive unevenly.
_KEEPALIVE_MS = 40_000
# How often the certificate's files are looked at, and how soon again when a connection fails.
_LOOK_SECONDS = 10.0
_LOOK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class CallSettings:
    """How calls are made.

    Attributes:
        timeout: How many seconds a call may take, with all its attempts.
        retries: How many more attempts a call that may be repeated has.
        hedge_after: After how many seconds without an answer a read is sent a second time.
        budget: Stops retries while many calls fail.
    """

    timeout: float
    retries: int
    hedge_after: float | None
    budget: RetryBudget = field(default_factory=RetryBudget)

    def deadline(self, timeout: float) -> float:
        """Return when a call that begins now has to end.

        Raises:
            ServiceTimeout: The request that it serves has ended already.
        """
        now = monotonic()
        ends = now + timeout
        inherited = context.deadline.get()
        if inherited is not None and inherited < ends:
            ends = inherited
        if ends <= now:
            raise ServiceTimeout("The deadline passed before the call began.")
        return ends

    def pause_after(
        self, error: AuthsvcError, *, attempt: int, deadline: float, may_repeat: bool
    ) -> float | None:
        """Return how many seconds to wait before another attempt, or None if there is none.

        Args:
            error: How the last one failed.
            attempt: Which one that was: 1 for the first.
            deadline: When the call has to end.
            may_repeat: Whether the call may be sent again although it may have taken effect.
        """
        if not (may_repeat or error.without_effect) or not is_transient(error):
            return None
        # A replica that stops refuses all calls at once, and the others are well.
        is_elsewhere = isinstance(error, ServiceStopping) and error.without_effect
        if not is_elsewhere:
            self.budget.spend()
        if attempt > self.retries or not (is_elsewhere or self.budget.allows):
            return None
        pause = pause_before(attempt, error)
        return pause if monotonic() + pause < deadline else None


class Renewal:
    """Says when the next look at the certificate's files is due."""

    def __init__(self, certificates: Certificates) -> None:
        self.certificates = certificates
        self._last = monotonic()
        self._next = self._last + _LOOK_SECONDS

    def is_due(self) -> bool:
        """Return whether to look at the files now; if so, the next look is due later."""
        now = monotonic()
        if now < self._next:
            return False
        self._last, self._next = now, now + _LOOK_SECONDS
        return True

    def hasten(self) -> None:
        """Look soon, as a connection failed: perhaps because of an outdated certificate."""
        self._next = min(self._next, self._last + _LOOK_AGAIN_SECONDS)


def address_of(target: str) -> str:
    """Return the target as gRPC resolves it: a bare name to all of its addresses.

    Raises:
        ValueError: It has no port, for which gRPC would take 443, or is no such address.
    """
    scheme, _, rest = target.partition(":")
    if scheme in {"unix", "xds"}:
        return target
    has_scheme = scheme in {"dns", "ipv4", "ipv6"}
    if not has_scheme:
        rest = target
    elif scheme == "dns":
        rest = rest.rpartition("/")[2]  # an address of the resolver may stand before it
    if not all(map(_has_port, rest.split(",") if scheme.startswith("ip") else [rest])):
        raise ValueError(f"not an address with a port, such as authsvc.example:8443: {target!r}")
    return target if has_scheme else f"dns:///{target}"


def _has_port(address: str) -> bool:
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 1 << 16
    # An IPv6 address needs brackets, or its last group is taken for a port.
    is_host = ":" not in host or unquote(host).startswith("[")
    return bool(host) and is_host and is_port


def channel_options(server_name: str) -> list[tuple[str, Any]]:
    """Return the options of a channel."""
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.primary_user_agent", f"authsvc-python/{__version__}"),
        # Only with calls in progress; and what is sent has to be acknowledged within the timeout.
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", 10_000),
        # A service that is back is found soon; the pauses of many clients differ.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.dns_min_time_between_resolutions_ms", 5_000),
        # Another client of this process has another certificate, and its own connections.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    return options
