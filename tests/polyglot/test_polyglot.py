"""A client's life in other languages, from generated code: from mutual TLS to an outage.

Each program verifies tokens without a call, with a usual library for JWTs and its own small
verifier, which follows the revocations.
"""

import os
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from authsvc.config import Settings
from authsvc.core.revocations.watching import RevocationWatch
from authsvc.errors import Overloaded, ServiceStopping
from authsvc.models.calls import Caller, Role
from authsvc.rpc.access import Access
from authsvc.rpc.auth.tokens import TokenRpcs
from authsvc.rpc.load import InFlight, Load
from authsvc.v1.admin_service_pb2 import (
    SIGNING_KEY_STATE_ACTIVE,
    ListSigningKeysRequest,
    RevokeSigningKeyRequest,
    SetUserRolesRequest,
)
from authsvc.v1.session_service_pb2 import RevokeSessionRequest
from tests.polyglot.foreign import ALGORITHMS, NewDatabase, issue_cases, write_cases
from tests.polyglot.languages import LANGUAGES, Language
from tests.polyglot.program import Program, running
from tests.support.certificates import Authority
from tests.support.probe import identity_of
from tests.support.service import Service, StartService

# They compile, with many libraries.
# The header of a token: {"alg":"ES256","typ":"at+jwt","kid":"made-up"}.
_UNKNOWN_KEY = "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6Im1hZGUtdXAifQ"

pytestmark = [pytest.mark.world, pytest.mark.timeout(1200)]


def environment_of(service: Service, authority: Authority, folder: Path) -> dict[str, str]:
    """Return what a program is given: where the service is, and a certificate with its key."""
    caller = authority.caller(identity_of(Role.APP))
    (folder / "client.crt").write_bytes(caller.certificate)
    (folder / "client.key").write_bytes(caller.key)
    return os.environ | {
        "AUTHSVC_ADDRESS": f"localhost:{service.app.grpc_port}",
        "AUTHSVC_CA": str(folder / "ca.crt"),
        "AUTHSVC_CERT": str(folder / "client.crt"),
        "AUTHSVC_KEY": str(folder / "client.key"),
        "AUTHSVC_ISSUER": service.settings.tokens.issuer,
        "AUTHSVC_AUDIENCE": service.settings.tokens.audience,
        "AUTHSVC_TOKENS": str(folder / "tokens.json"),
        "AUTHSVC_UNKNOWN_KEY": _UNKNOWN_KEY,
    }


@pytest.fixture
def cursors(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cursors with which streams have begun."""
    begun = []
    watch = RevocationWatch.watch

    def recorded(self: RevocationWatch, cursor: str, caller: str) -> Any:
        begun.append(cursor)
        return watch(self, cursor, caller)

    monkeypatch.setattr(RevocationWatch, "watch", recorded)
    return begun


class PublishedKeys:
    """Whether the keys can be fetched, and how often somebody tried while they could not."""

    def __init__(self) -> None:
        self.are_away = False
        self.attempts = 0


class Door:
    """How many more calls are refused, as by a replica that stops."""

    def __init__(self) -> None:
        self.refusals = 0


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    """The way in of the service's calls."""
    door = Door()
    pool = Load.pool

    def guarded(self: Load, caller: Caller, access: Access) -> InFlight:
        if door.refusals:
            door.refusals -= 1
            raise ServiceStopping
        return pool(self, caller, access)

    monkeypatch.setattr(Load, "pool", guarded)
    return door


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> PublishedKeys:
    """Counts how often the keys are asked for while they are away."""
    published = PublishedKeys()
    get_jwks = TokenRpcs.GetJwks

    async def recorded(self: TokenRpcs, request: Any, context: Any) -> Any:
        if published.are_away:
            published.attempts += 1
            raise Overloaded  # which no retry policy repeats
        return await get_jwks(self, request, context)

    monkeypatch.setattr(TokenRpcs, "GetJwks", recorded)
    return published


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.name)
async def test_client(
    *,
    language: Language,
    settings: Settings,
    live_settings: Settings,
    new_database: NewDatabase,
    start_service: StartService,
    authority: Authority,
    cursors: list[str],
    published: PublishedKeys,
    door: Door,
    tmp_path: Path,
) -> None:
    command = language.built()
    cases = []
    for algorithm in ALGORITHMS:
        issuer, issued = await issue_cases(algorithm, settings, start_service, new_database)
        await issuer.app.stop()
        cases += issued
    write_cases(cases, tmp_path / "tokens.json")
    service = await start_service(live_settings)
    environment = environment_of(service, authority, tmp_path)
    log = tmp_path / "program.log"
    published.are_away = True
    async with running(command, language.folder, environment, log) as program:
        await read_user(program)
        session_id = await begun(program)
        for case in cases:
            await program.expect(**{f"token {case.name}": case.verdict})
        await outlast_missing_keys(program, published)
        await follow_revocations(program, service, session_id, cursors, door)
        await program.expect(stop_service="")
        await service.app.stop()
        program.resume()
        await program.expect(away="undecided")
        # Which of the two depends on how long its attempts take.
        await program.expect_one_of("asked", "UNAVAILABLE", "DEADLINE_EXCEEDED")
        assert await program.end() == 0


async def read_user(program: Program) -> None:
    name, user_id = await program.step()
    assert name == "registered"
    UUID(user_id)


async def begun(program: Program) -> str:
    """Read the steps from the login to the refresh; return the session's id."""
    name, session_id = await program.step()
    assert name == "logged_in"
    await program.expect(
        wrong_password="CREDENTIALS_INVALID",
        deadline="DEADLINE_EXCEEDED",
        refreshed=session_id,
    )
    return session_id


async def outlast_missing_keys(program: Program, published: PublishedKeys) -> None:
    """Let it verify twenty tokens of an unknown key while the keys can't be fetched."""
    await program.expect(before_watching="undecided", unknown_keys="undecided", mend_keys="")
    # The second only if the twenty took longer than the five seconds between two attempts.
    assert 1 <= published.attempts <= 2
    published.are_away = False
    program.resume()


async def follow_revocations(
    program: Program, service: Service, session_id: str, cursors: list[str], door: Door
) -> None:
    """Read the steps of the verifier, and end what it asks for."""
    await program.expect(verified="accepted")
    await program.expect(revoke_session=session_id)
    await revoke(service, session_id)
    program.resume()
    await program.expect(revoked="SESSION_REVOKED")
    # The login that comes next is refused at first.
    await program.expect(refuse_calls="")
    door.refusals = 2
    program.resume()
    await program.expect(another="accepted")
    assert not door.refusals

    name, session_id = await program.step()
    assert name == "revoke_unseen"
    streams = len(cursors)
    await revoke(service, session_id)
    program.resume()
    await program.expect(resumed="SESSION_REVOKED", third="accepted")
    assert cursors[0] == ""
    assert cursors[streams] != ""

    name, user_id = await program.step()
    assert name == "end_user"
    # The session goes on: only the event of the user refuses the tokens that have the role.
    await service.admin().SetUserRoles(SetUserRolesRequest(user_id=user_id))
    program.resume()
    await program.expect(user_ended="SESSION_REVOKED", later_token="accepted")

    await program.expect(revoke_key="")
    await revoke_signing_key(service)
    program.resume()
    await program.expect(key_revoked="SESSION_REVOKED", another_key="accepted")


async def revoke_signing_key(service: Service) -> None:
    """Revoke the key that signs now; another one takes over."""
    keys = (await service.admin().ListSigningKeys(ListSigningKeysRequest())).keys
    [key_id] = [key.key_id for key in keys if key.state == SIGNING_KEY_STATE_ACTIVE]
    await service.admin().RevokeSigningKey(RevokeSigningKeyRequest(key_id=key_id))


async def revoke(service: Service, session_id: str) -> None:
    await service.sessions().RevokeSession(RevokeSessionRequest(session_id=session_id))
