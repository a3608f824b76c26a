"""Owns the chapter about incidents: an attack is detected, frozen, and cleaned up after."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import grpc

from authsvc.app.build import Parts, open_parts
from authsvc.cli.calls import cli_call
from authsvc.cli.demo.tour import Tour, failure, new_email
from authsvc.cli.output import settings_of
from authsvc.models.incidents import IncidentEvent
from authsvc.models.sessions import SessionSelection
from authsvc.v1.admin_service_pb2 import ImportUsersRequest
from authsvc.v1.session_service_pb2 import ValidateSessionRequest

_ACCOUNTS = 20
_WAIT = 15.0
_REASON = "demo"
_GUESS = "Summer-2026-Summer"


async def incident(tour: Tour) -> None:
    """Show an attack being detected and stopped."""
    config, secrets = tour.state / "config.toml", tour.state / "secrets"
    if not config.exists():
        tour.skip(f"the operator's steps need the settings in {tour.state}")
        return
    tokens = await tour.tokens()
    tour.title(f"Somebody tries one password at {_ACCOUNTS} accounts, each only once")
    started = datetime.now(UTC)
    emails = await _import_users(tour)
    await asyncio.gather(*(_guess(tour, email) for email in emails))
    async with open_parts(settings_of(config, secrets)) as parts:
        found = await _detected(tour, parts, started)
        tour.say("detected", f"{found.detail['detection']}, {found.detail['count']} accounts")

        tour.title("An operator freezes logins from there, and ends what was opened")
        steps = parts.use.incident_steps
        network = f"{found.detail['ip']}/{found.detail['prefix']}"
        freeze = await steps.freeze(cli_call(), (), network, timedelta(hours=1), _REASON)
        try:
            tour.say("frozen", freeze.network)
            await _frozen(tour)
            check = ValidateSessionRequest(session_token=tokens.session_token, client=tour.client)
            active = (await tour.sessions("edge").ValidateSession(check)).active
            tour.answer(
                "a session that was there goes on", "active", accepted=active, expected=True
            )
            selection = SessionSelection(
                network=network, created_after=started - timedelta(minutes=1)
            )
            tour.say("sessions ended", await steps.end_sessions(cli_call(), selection, _REASON))
            await _ended(tour, check)
        finally:
            await steps.unfreeze(cli_call(), [freeze.freeze_id], _REASON)
        tour.say("unfrozen", network)
        taken = [event.type for event in await steps.recent(started, 10)]
        tour.say("recorded", ", ".join(taken))


async def _import_users(tour: Tour) -> Sequence[str]:
    emails = [new_email("user") for _ in range(_ACCOUNTS)]
    rows = b"".join(json.dumps({"email": email}).encode() + b"\n" for email in emails)

    async def messages() -> AsyncIterator[ImportUsersRequest]:
        yield ImportUsersRequest(chunk=rows)

    await tour.admin().ImportUsers(messages())
    return emails


async def _guess(tour: Tour, email: str) -> None:
    try:
        await tour.login(email, _GUESS)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return
        raise
    tour.fail("a guess", "it was right")


async def _detected(tour: Tour, parts: Parts, started: datetime) -> IncidentEvent:
    """Return the detection, once one of the replicas has raised it."""
    deadline = asyncio.get_running_loop().time() + _WAIT
    while True:
        for event in await parts.use.incident_steps.recent(started, 10):
            # Others may be raised meanwhile, for what was done before.
            if event.detail.get("detection") == "password_spraying":
                return event
        if asyncio.get_running_loop().time() > deadline:
            tour.fail("the detection", f"was not raised within {_WAIT:.0f} s")
        await asyncio.sleep(0.1)


async def _frozen(tour: Tour) -> None:
    """Show that a login is refused, once the service knows of the freeze."""
    for _ in range(int(_WAIT / 0.1)):
        try:
            await tour.login(tour.email, tour.password)
        except grpc.aio.AioRpcError as error:
            tour.answer("a login with the right password", failure(error), accepted=False)
            return
        await asyncio.sleep(0.1)
    tour.fail("a login with the right password", "was not refused")


async def _ended(tour: Tour, check: ValidateSessionRequest) -> None:
    """Show that a session is rejected, once the service knows that another process ended it."""
    for _ in range(int(_WAIT / 0.1)):
        if not (await tour.sessions("edge").ValidateSession(check)).active:
            tour.answer("that session now", "ended", accepted=False)
            return
        await asyncio.sleep(0.1)
    tour.fail("that session", "goes on")
