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
from authsvc.models.calls import Role
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


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.name)
async def test_client(
    language: Language,
    settings: Settings,
    live_settings: Settings,
    new_database: NewDatabase,
    start_service: StartService,
    authority: Authority,
    cursors: list[str],
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
    async with running(command, language.folder, environment, log) as program:
        await read_user(program)
        session_id = await begun(program)
        for case in cases:
            await program.expect(**{f"token {case.name}": case.verdict})
        await follow_revocations(program, service, session_id, cursors)
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


async def follow_revocations(
    program: Program, service: Service, session_id: str, cursors: list[str]
) -> None:
    """Read the steps of the verifier, and end what it asks for."""
    await program.expect(before_watching="undecided", verified="accepted")
    await program.expect(revoke_session=session_id)
    await revoke(service, session_id)
    program.resume()
    await program.expect(revoked="SESSION_REVOKED", another="accepted")

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
