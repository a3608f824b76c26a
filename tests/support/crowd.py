"""A crowd that does random things (from a seed) to one account concurrently."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from authsvc.app.build import Parts
from authsvc.models.ids import UserId
from tests.support.clock import FakeClock
from tests.support.factors import STEP
from tests.support.provider import LocalProvider
from tests.support.tries import BY_ADDRESS, Tries, outcome

if TYPE_CHECKING:
    from _typeshed import SupportsLenAndGetItem

_T = TypeVar("_T")
_NEWEST = "SELECT user_id, email FROM users ORDER BY user_id DESC LIMIT 1"
_COMMON, _RARE = 4, 1
# Actions that leave little for the others to do.
_ENDING = {
    *("try_delete", "try_disable_and_enable", "try_register", "try_retention", "try_revoke_all"),
    *("try_end_in_bulk", "try_oauth", "try_link", "try_unlink", "try_remove_factor"),
}
# The actions, by name.
WAYS: dict[str, Callable[[Tries], Awaitable[None]]] = {
    name: way for name, way in vars(Tries).items() if name.startswith("try_")
}


class Steady(random.Random):
    """No randomness: always the first choice."""

    def choice(self, seq: "SupportsLenAndGetItem[_T]") -> _T:
        return seq[0]

    def sample(self, population: Sequence[_T], k: int, **_: Any) -> list[_T]:
        return list(population[:k])


class Crowd(Tries):
    """Tries random actions; `outcomes` counts the results."""

    def __init__(
        self, parts: Parts, provider: LocalProvider, clock: FakeClock, chance: random.Random
    ) -> None:
        super().__init__(parts, provider, clock, chance)
        self.outcomes: Counter[tuple[str, str]] = Counter()

    async def settle(self) -> None:
        """Create an account that has one of everything."""
        await self.try_register()
        await self._look()
        for purpose in BY_ADDRESS:
            await self.request(purpose)
        for way in (
            *(self.try_request_change, self.try_login, self.try_link, self.try_create_key),
            *(self.try_passkey, self.try_enroll, self.try_login),
        ):
            await way()
        self._clock.advance(STEP)

    async def act(self, times: int, at_once: int) -> None:
        """Try `times` actions, `at_once` at a time."""
        weights = [_RARE if name in _ENDING else _COMMON for name in WAYS]
        chosen = iter(self._random.choices(list(WAYS), weights, k=times))

        async def one_of_them() -> None:
            for name in chosen:
                await self._look()
                self.outcomes[name, await outcome(WAYS[name](self))] += 1

        await asyncio.gather(*(one_of_them() for _ in range(at_once)))

    async def _look(self) -> None:
        """Look up the present account; create one if there is none."""
        async with self._parts.database.connection() as connection:
            found = await connection.fetchrow(_NEWEST)
        if found is None:
            await outcome(self.try_register())
        else:
            self._user_id, self._email = UserId(found["user_id"]), found["email"]
