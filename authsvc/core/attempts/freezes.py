"""Owns frozen logins: which ways to log in are refused at the moment, and from which networks.

A freeze keeps anybody from logging in and leaves existing sessions alone. The few rows are held in
memory; a replica that can't have read them within the last second reads them before it lets anybody
in, so while the database doesn't answer, nobody gets in.
"""

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import structlog

from authsvc.core.lib.clock import elapsed
from authsvc.core.lib.jitter import JITTER
from authsvc.core.lib.single_flight import SingleFlight
from authsvc.errors import StoreUnavailable, login_frozen
from authsvc.measures import Counts
from authsvc.models.calls import ClientContext
from authsvc.models.incidents import LoginFreeze, LoginMethod
from authsvc.store import login_freezes as store
from authsvc.store.postgres.database import Database

log = structlog.get_logger(__name__)

# Seconds after which what is in memory is not used, and between two reads without a ring.
_BOUND = 1.0
_POLL = 0.4


class LoginFreezes:
    """Refuses logins that are frozen; `refusals` counts how often, by method."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reads = SingleFlight(self._read)
        self._freezes: Sequence[tuple[LoginFreeze, IPv4Network | IPv6Network | None]] = ()
        self._complete_until = float("-inf")
        self._losses = 0
        self._rung = asyncio.Event()
        self.refusals = Counts(*((method.value,) for method in LoginMethod))
        database.on_leave(self._forget)

    @property
    def in_force(self) -> int:
        """How many freezes were in force when they were last read."""
        return len(self._freezes)

    async def require_open(self, method: LoginMethod, client: ClientContext) -> None:
        """Return if this client may log in by `method` now.

        A client whose address the caller doesn't pass is in no network.

        Raises:
            FailedPrecondition: LOGIN_FROZEN.
            StoreUnavailable: The database had to be asked, and did not answer.
        """
        if elapsed() - self._complete_until > _BOUND:
            await self._reads.read()
        address = ip_address(client.ip) if client.ip is not None and self._freezes else None
        for freeze, network in self._freezes:
            if freeze.methods and method not in freeze.methods:
                continue
            if network is None or (address is not None and address in network):
                self.refusals.add(method.value)
                raise login_frozen(method)

    def ring(self) -> None:
        """Read the freezes soon: they may have changed."""
        self._rung.set()

    async def run(self) -> None:
        """Keep what is in memory up to date until cancelled."""
        while True:
            self._rung.clear()
            try:
                await self._reads.read()
            except StoreUnavailable:
                log.debug("login_freezes_not_read")
            try:
                async with asyncio.timeout(_POLL * JITTER.uniform(0.8, 1)):
                    await self._rung.wait()
            except TimeoutError:
                continue

    def _forget(self) -> None:
        """Use nothing that another server said."""
        self._losses += 1
        self._complete_until = float("-inf")

    async def _read(self) -> None:
        started, losses = elapsed(), self._losses
        async with self._database.connection() as connection:
            found = await store.list_all(connection)
        if losses != self._losses:
            raise StoreUnavailable
        self._freezes = [
            (freeze, ip_network(freeze.network) if freeze.network else None) for freeze in found
        ]
        self._complete_until = started
