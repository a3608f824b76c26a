"""Owns the look-up of new passwords among breached ones: what is asked, remembered and refused.

Whoever is asked gets five digits of the password's SHA-1 (k-anonymity). Neither the password nor
any part of its hash is logged.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Protocol

import structlog
from cachetools import TTLCache

from authsvc.config import BreachedPasswordSettings
from authsvc.core.passwords.hashing import normalize_password
from authsvc.errors import FieldInvalid, ProviderUnavailable, ServiceError
from authsvc.models.clock import Clock

_PREFIX = 5
_REFUSED = "Choose another password: this one is in lists of breached passwords."

log = structlog.get_logger(__name__)


class Ranges(Protocol):
    """A service that knows breached passwords by their SHA-1."""

    async def fetch(self, prefix: str) -> Mapping[str, int]:
        """Return how often the passwords whose SHA-1 has this prefix were breached.

        The keys are the rest of the SHA-1, in upper case. Raises ServiceError without an answer.
        """


class BreachedPasswords:
    """Refuses passwords that were breached more often than `settings.threshold`.

    `requests`, `failures` and `refusals` are counts since the start.
    """

    def __init__(self, ranges: Ranges, settings: BreachedPasswordSettings, clock: Clock) -> None:
        self._ranges = ranges
        self._settings = settings
        # By prefix: the suffixes above the threshold, one a line, as sets take three times as much.
        self._known: TTLCache[str, str] = TTLCache(
            settings.cache_size,
            settings.cache_lifetime.total_seconds(),
            lambda: clock.now().timestamp(),
        )
        self._asked: dict[str, asyncio.Task[str]] = {}
        self.requests = 0
        self.failures = 0
        self.refusals = 0

    async def check(self, password: str, field: str) -> None:
        """Check that a new password was not breached too often.

        Raises:
            FieldInvalid: PASSWORD_WEAK: it was.
            ProviderUnavailable: That can't be found out, and the settings say to refuse it then.
        """
        digest = hashlib.sha1(normalize_password(password, field).encode(), usedforsecurity=False)
        text = digest.hexdigest().upper()
        try:
            suffixes = await self._suffixes(text[:_PREFIX])
        except ServiceError as error:
            if self._settings.on_failure == "refuse":
                raise ProviderUnavailable(
                    "Whether the password was breached can't be found out at the moment."
                ) from error
            return
        if f"\n{text[_PREFIX:]}\n" in suffixes:
            self.refusals += 1
            raise FieldInvalid.weak_password(field, [_REFUSED])

    async def _suffixes(self, prefix: str) -> str:
        """Return a prefix's suffixes; all callers that need the same one share a request."""
        known = self._known.get(prefix)
        if known is not None:
            return known
        task = self._asked.get(prefix)
        if task is None:
            task = self._asked[prefix] = asyncio.create_task(self._ask(prefix))
            task.add_done_callback(lambda done: self._finished(prefix, done))
        # A caller cancelled while it waits must not cancel the request of the others.
        return await asyncio.shield(task)

    async def _ask(self, prefix: str) -> str:
        self.requests += 1
        found = await self._ranges.fetch(prefix)
        above = (name for name, count in found.items() if count > self._settings.threshold)
        suffixes = "\n" + "".join(f"{name}\n" for name in above)
        self._known[prefix] = suffixes
        return suffixes

    def _finished(self, prefix: str, task: asyncio.Task[str]) -> None:
        del self._asked[prefix]
        # Also retrieves the exception, in case all callers were cancelled.
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures += 1
            log.warning("breached_passwords_unavailable", error=type(error).__name__)
