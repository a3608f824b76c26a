"""What the service records over a user's whole life cycle: everything except secrets."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from authsvc.core.audit.recording import AuditType
from authsvc.errors import ServiceError
from authsvc.models.calls import ClientContext
from authsvc.models.tokens import Tokens
from authsvc.store.postgres.database import Database
from tests.support.accounts import CALL, CLI, EMAIL, IP, PASSWORD, WRONG, Service
from tests.support.clock import FakeClock

_CLIENT = ClientContext(IP, "Test")


@pytest_asyncio.fixture
async def service(database: Database, clock: FakeClock) -> AsyncIterator[Service]:
    started = await Service(database, clock).start()
    yield started
    started.hasher.close()


async def _live(service: Service, clock: FakeClock) -> list[Tokens]:
    """Do everything that records an audit event; return the tokens that were issued."""
    accounts, sessions = service.accounts, service.sessions
    user_id = await service.register()
    # People type their password into the address field.
    for email, password in ((EMAIL, WRONG), (f"{PASSWORD}@nobody.example", PASSWORD)):
        assert await service.login(password, email=email) == "CREDENTIALS_INVALID"
    first = await service.log_in(CALL, EMAIL, PASSWORD, _CLIENT)
    second = await sessions.refreshing.refresh(CALL, first.refresh_token, _CLIENT)
    clock.advance(timedelta(minutes=5))
    with pytest.raises(ServiceError, match="already used"):
        await sessions.refreshing.refresh(CALL, first.refresh_token, _CLIENT)
    third = await service.log_in(CALL, EMAIL, PASSWORD, _CLIENT)
    await sessions.ending.log_out(CALL, third.refresh_token)
    fourth = await service.log_in(CALL, EMAIL, PASSWORD, _CLIENT)
    await sessions.ending.revoke(CALL, fourth.session_id)
    await accounts.disable(CLI, user_id)
    await accounts.enable(CLI, user_id)
    return [first, second, third, fourth]


async def test_audit_events_and_logs_contain_no_secret(
    service: Service, database: Database, clock: FakeClock
) -> None:
    with capture_logs() as logs:
        given = await _live(service, clock)
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT * FROM audit_events")
        phc = await connection.fetchval("SELECT password_hash FROM users")
    written = f"{logs} {[tuple(row) for row in rows]}"

    secrets = {PASSWORD, WRONG, EMAIL, EMAIL.casefold(), phc}
    for tokens in given:
        secrets |= {tokens.access_token, tokens.refresh_token}
        secrets |= {tokens.session_token, tokens.csrf_token} - {""}
    assert [secret for secret in secrets if secret.casefold() in written.casefold()] == []

    expected = {
        AuditType.REGISTER,
        AuditType.LOGIN_FAILURE,
        AuditType.LOGIN,
        AuditType.REFRESH,
        AuditType.REFRESH_REUSE,
        AuditType.LOGOUT,
        AuditType.REVOKE,
        AuditType.USER_DISABLE,
        AuditType.USER_ENABLE,
    }
    assert expected <= {row["type"] for row in rows}
    assert expected <= {entry.get("type") for entry in logs}
