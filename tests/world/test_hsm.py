"""Signing keys in an HSM: SoftHSM, reached through its PKCS#11 module."""

import json
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pkcs11
import pytest
from pkcs11 import Attribute
from pydantic import SecretStr, ValidationError

from authsvc.config import Settings, TokenSettings
from authsvc.errors import StoreUnavailable
from authsvc.outbound.hsm import Hsm
from authsvc.v1 import admin_service_pb2 as pb
from authsvc.v1.auth_service_pb2 import GetJwksRequest
from tests.support.clock import FakeClock
from tests.support.probe import failure, outcome, reason_of
from tests.support.service import Service, StartService
from tests.support.session_keys import issue
from tests.support.softhsm import SoftHsm
from tests.support.tokens import CALL

pytestmark = pytest.mark.world


@pytest.fixture
def hsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    return SoftHsm(tmp_path / "hsm", monkeypatch.setenv)


async def _verified(service: Service, token: str) -> dict[str, Any]:
    """Return the header of a token that another library verifies by the published keys."""
    answer = await service.auth().GetJwks(GetJwksRequest())
    keys = jwt.PyJWKSet.from_dict(json.loads(answer.jwks_json))
    header = jwt.get_unverified_header(token)
    # The times are those of a clock that the test may have set.
    jwt.decode(
        token,
        keys[header["kid"]],
        algorithms=[header["alg"]],
        audience="authsvc",
        options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
    )
    return header


async def _states(service: Service) -> dict[str, int]:
    answer = await service.admin().ListSigningKeys(pb.ListSigningKeysRequest())
    return {key.key_id: key.state for key in answer.keys}


async def _rotate(service: Service) -> str:
    request = pb.RotateSigningKeyRequest(now=True)
    return (await service.admin().RotateSigningKey(request)).active_key.key_id


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
async def test_keys_sign_in_the_hsm_and_never_leave_it(
    start_service: StartService, live_settings: Settings, hsm: SoftHsm, algorithm: str
) -> None:
    settings = hsm.settings(live_settings, algorithm=algorithm)
    service = await start_service(settings)
    session = await service.new_session()
    first = await _verified(service, session.access_token)
    assert first["alg"] == algorithm
    for row in await service.fetch("SELECT key_id, sealed_key FROM signing_keys"):
        opened = service.app._parts.use.signing_keys._keys.usable[row["key_id"]]
        assert opened.external is not None
        assert opened.secret_bytes().startswith(b"external:")
    found = hsm.private_keys()
    assert len(found) == 2  # the active and the prepared one
    for attributes in found:
        assert attributes == {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}

    # A rotation leaves no key in the HSM that the database doesn't have.
    second = await _rotate(service)
    refreshed = await service.refresh(session.refresh_token)
    assert (await _verified(service, refreshed.access_token))["kid"] == second != first["kid"]
    await _verified(service, session.access_token)
    assert len(hsm.private_keys()) == len(await _states(service)) == 3

    # A revoked key is destroyed at once.
    await service.admin().RevokeSigningKey(pb.RevokeSigningKeyRequest(key_id=second))
    assert await service.judge_token(refreshed.access_token) == "SIGNATURE_INVALID"
    assert len(hsm.private_keys()) == len(await _states(service)) - 1 == 3

    # What an interrupted rotation would leave behind is found.
    keys = service.app._parts.use.signing_keys
    left = (await keys._signer.generate(algorithm)).external
    assert left is not None
    assert await keys.find_orphans() == [left.id.hex()]

    # The next start finds the keys.
    restarted = await start_service(settings)
    again = await restarted.login()
    await _verified(restarted, again.access_token)
    assert await service.judge_token(again.access_token) == ""


async def test_without_hsm_nothing_is_issued_until_it_returns(
    start_service: StartService, live_settings: Settings, hsm: SoftHsm
) -> None:
    service = await start_service(hsm.settings(live_settings))
    session = await service.new_session()
    active = jwt.get_unverified_header(session.access_token)["kid"]
    hsm.vanish()
    refused = await failure(service.login())
    assert reason_of(refused) == "STORE_UNAVAILABLE"
    assert "HSM" in str(refused.details())
    assert await outcome(
        service.admin().RotateSigningKey(pb.RotateSigningKeyRequest(now=True))
    ) == ("STORE_UNAVAILABLE")
    assert await service.judge_token(session.access_token) == ""
    # A stolen key can be revoked even now; the prepared one takes over.
    await service.admin().RevokeSigningKey(pb.RevokeSigningKeyRequest(key_id=active))
    assert await service.judge_token(session.access_token) == "SIGNATURE_INVALID"
    hsm.return_()
    await _verified(service, (await service.login()).access_token)


async def test_statements_are_signed_in_the_hsm(
    start_service: StartService, live_settings: Settings, hsm: SoftHsm
) -> None:
    service = await start_service(hsm.settings(live_settings))
    session = await service.new_session()
    issued = await issue(service, session)
    answer = await service.auth().GetJwks(GetJwksRequest())
    keys = jwt.PyJWKSet.from_dict(json.loads(answer.jwks_json))
    kid = jwt.get_unverified_header(issued.statement)["kid"]
    claims = jwt.decode(
        issued.statement, keys[kid], algorithms=["ES256"], options={"verify_aud": False}
    )
    assert claims["purpose"] == "chat"


async def test_signer_is_changed_through_the_lead_and_back(
    start_service: StartService, live_settings: Settings, hsm: SoftHsm, clock: FakeClock
) -> None:
    service = await start_service(live_settings, clock)
    old = (await service.new_session()).access_token
    local = jwt.get_unverified_header(old)["kid"]
    for signer, in_hsm in (("pkcs11", True), ("local", False)):
        service = await start_service(hsm.settings(live_settings, signer=signer), clock)
        keys = service.app._parts.use.signing_keys
        assert keys.active.key_id == local  # signs on while the next one is being published
        clock.advance(timedelta(hours=1, seconds=1))
        await keys.maintain(CALL)
        assert (keys.active.external is not None) is in_hsm
        local = keys.active.key_id
        token = (await service.login()).access_token
        assert (await _verified(service, token))["kid"] == local


async def test_expired_keys_are_destroyed_and_kept_while_that_fails(
    start_service: StartService, live_settings: Settings, hsm: SoftHsm, clock: FakeClock
) -> None:
    service = await start_service(hsm.settings(live_settings), clock)
    keys = service.app._parts.use.signing_keys
    old = keys.active.key_id
    await _rotate(service)
    clock.advance(timedelta(hours=3))
    hsm.vanish()
    await keys.maintain(CALL)
    assert old in await _states(service)
    hsm.return_()
    await keys.maintain(CALL)
    assert old not in await _states(service)
    assert len(hsm.private_keys()) == len(await _states(service)) == 2


async def test_refused_pin_is_tried_once(
    live_settings: Settings, hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = hsm.settings(live_settings).tokens.pkcs11
    assert settings is not None
    attempts = []
    load = pkcs11.lib

    class Token:
        """The token, whose logins are counted: three wrong ones lock many a real one."""

        def __init__(self, token: Any) -> None:
            self._token = token

        def open(self, **options: Any) -> Any:
            attempts.append(options["user_pin"])
            return self._token.open(**options)

    class Library:
        def __init__(self, path: str) -> None:
            self._library = load(path)

        def get_token(self, **options: Any) -> Token:
            return Token(self._library.get_token(**options))

        def reinitialize(self) -> None:
            self._library.reinitialize()

    monkeypatch.setattr(pkcs11, "lib", Library)
    signer = Hsm(settings.model_copy(update={"pin": SecretStr("another")}))
    with pytest.raises(StoreUnavailable, match="PinIncorrect"):
        await signer.generate("ES256")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="tried again after a restart"):
            await signer.generate("ES256")
    assert attempts == ["another"]
    signer.close()
    # The right one opens it.
    signer = Hsm(settings)
    assert (await signer.generate("ES256")).external is not None
    signer.close()
    assert attempts[1:] == [settings.pin.get_secret_value()]


async def test_calls_do_not_wait_behind_one_that_hangs(
    live_settings: Settings, hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = hsm.settings(live_settings).tokens.pkcs11
    assert settings is not None
    signer = Hsm(settings.model_copy(update={"timeout": timedelta(milliseconds=100)}))
    goes_on, attempt = threading.Event(), signer._attempt
    monkeypatch.setattr(signer, "_attempt", lambda _: goes_on.wait())
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await signer.generate("ES256")
    monkeypatch.setattr(signer, "_attempt", attempt)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await signer.generate("ES256")
    goes_on.set()
    assert signer._late is not None
    await signer._late
    signer._timeout = 60
    assert (await signer.generate("ES256")).external is not None
    signer.close()


@pytest.mark.parametrize("algorithm", ["EdDSA", "HS256"])
def test_other_algorithms_are_refused(
    live_settings: Settings, hsm: SoftHsm, algorithm: str
) -> None:
    with pytest.raises(ValidationError, match=f"ES256 or RS256, not with {algorithm}"):
        hsm.settings(live_settings, algorithm=algorithm)


def test_signer_needs_its_section() -> None:
    with pytest.raises(ValidationError, match=r"needs the section tokens\.pkcs11"):
        TokenSettings(signer="pkcs11")
