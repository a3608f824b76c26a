"""Owns the beginning and the end of every login: whether its way is open, and how it ended."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TypeVar

from authsvc.core.attempts.freezes import LoginFreezes
from authsvc.core.lib.time_limit import is_expiry
from authsvc.core.login.federated import OAuthOutcome
from authsvc.errors import FieldInvalid, Reason, ServiceError, TooManyAttempts
from authsvc.measures import Counts
from authsvc.models.calls import ClientContext
from authsvc.models.factors import LoginOutcome, MfaChallenge
from authsvc.models.incidents import LoginMethod

Outcome = TypeVar("Outcome", bound=LoginOutcome | OAuthOutcome)

SECOND_FACTOR = "second_factor"
_METHODS = (
    LoginMethod.PASSWORD.value,
    LoginMethod.CODE.value,
    LoginMethod.PASSKEY.value,
    LoginMethod.FEDERATED.value,
    LoginMethod.ISSUED.value,
    SECOND_FACTOR,
)


class LoginEnd(StrEnum):
    """How a login ended.

    `FAILED` is the user's failure, `UNAVAILABLE` the service's, its database's or a provider's.
    """

    SUCCEEDED = "succeeded"
    SECOND_FACTOR_REQUIRED = "second_factor_required"
    FAILED = "failed"
    THROTTLED = "throttled"
    FROZEN = "frozen"
    UNAVAILABLE = "unavailable"


_UNAVAILABLE = frozenset(
    {
        Reason.OVERLOADED,
        Reason.STORE_UNAVAILABLE,
        Reason.PROVIDER_UNAVAILABLE,
        Reason.PROVIDER_MISCONFIGURED,
        Reason.SERVICE_STOPPING,
        Reason.INTERNAL,
    }
)


class Logins:
    """Runs logins, and counts how they end, by method and outcome, in `counts`."""

    def __init__(self, freezes: LoginFreezes) -> None:
        self._freezes = freezes
        self.counts = Counts(*((method, end.value) for method in _METHODS for end in LoginEnd))

    async def run(
        self, method: LoginMethod, client: ClientContext, login: Callable[[], Awaitable[Outcome]]
    ) -> Outcome:
        """Return the outcome of `login`, unless this client may not log in by `method` now.

        Raises:
            FailedPrecondition: LOGIN_FROZEN.
            StoreUnavailable: The database had to be asked, and did not answer.
        """

        async def unless_frozen() -> Outcome:
            await self._freezes.require_open(method, client)
            return await login()

        return await self._count(method.value, unless_frozen)

    async def run_second_step(self, login: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Return the outcome of `login`, which is the second step of one by whichever method."""
        return await self._count(SECOND_FACTOR, login)

    async def _count(self, method: str, login: Callable[[], Awaitable[Outcome]]) -> Outcome:
        try:
            outcome = await login()
        except BaseException as error:
            end = _end(error)
            if end is not None:
                self.counts.add(method, end.value)
            raise
        reached = outcome.outcome if isinstance(outcome, OAuthOutcome) else outcome
        waits = isinstance(reached, MfaChallenge)
        end = LoginEnd.SECOND_FACTOR_REQUIRED if waits else LoginEnd.SUCCEEDED
        self.counts.add(method, end.value)
        return outcome


def _end(error: BaseException) -> LoginEnd | None:
    """Return how a login ended that raised this; None if it never began, or its caller left."""
    match error:
        case FieldInvalid():
            return None
        case TooManyAttempts():
            return LoginEnd.THROTTLED
        case ServiceError(reason=Reason.LOGIN_FROZEN):
            return LoginEnd.FROZEN
        case ServiceError(reason=reason):
            return LoginEnd.UNAVAILABLE if reason in _UNAVAILABLE else LoginEnd.FAILED
    return LoginEnd.UNAVAILABLE if isinstance(error, Exception) or is_expiry(error) else None
