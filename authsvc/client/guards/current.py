"""Owns what a handler knows of the request that it serves: who sent it, its id and its trace."""

import secrets
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from authsvc.client import context
from authsvc.client.identity import Identity

_identity: ContextVar[Identity | None] = ContextVar("authsvc_identity", default=None)
_token: ContextVar[str] = ContextVar("authsvc_token", default="")


def current_identity() -> Identity:
    """Return who sent the request that is being served.

    Raises:
        LookupError: No guard has identified anybody: the route is public, or not guarded.
    """
    identity = _identity.get()
    if identity is None:
        raise LookupError("no identity: the route is public, or there is no guard")
    return identity


def current_token() -> str:
    """Return the access token of the request that is being served, to exchange it.

    Raises:
        LookupError: The request came without one: the route is public, or a cookie was sent.
    """
    token = _token.get()
    if not token:
        raise LookupError("no access token: the route is public, or the request has a cookie")
    return token


def deadline_in(seconds: float | None) -> float | None:
    """Return when a call ends that has so many seconds left, or None if it may take forever."""
    return None if seconds is None else time.monotonic() + seconds


class Serving:
    """Makes a request the current one: `with Serving(…)`."""

    __slots__ = ("_restore", "_values")

    def __init__(
        self,
        headers: Mapping[str, str | bytes],
        *,
        identity: Identity | None,
        token: str = "",
        deadline: float | None = None,
    ) -> None:
        """Take the request's id and trace from its headers.

        Args:
            headers: The headers, with names in lower case.
            identity: Who sent the request; None on a public route.
            token: The access token that it came with.
            deadline: When it ends, by `time.monotonic()`.
        """
        given = headers.get("x-request-id", "")
        if not isinstance(given, str) or not context.is_request_id(given):
            given = secrets.token_hex(16)
        self._values: tuple[tuple[ContextVar[Any], Any], ...] = (
            (_identity, identity),
            (_token, token),
            (context.request_id, given),
            (context.traceparent, headers.get("traceparent", "")),
            (context.tracestate, headers.get("tracestate", "")),
            (context.deadline, deadline),
        )

    def set(self) -> None:
        """Make it current for the rest of a task or context of its own."""
        for variable, value in self._values:
            if value or variable.get():  # setting what is set already takes longer
                variable.set(value)

    def __enter__(self) -> None:
        self._restore = [(variable, variable.set(value)) for variable, value in self._values]

    def __exit__(self, *_: object) -> None:
        for variable, earlier in self._restore:
            variable.reset(earlier)
