"""Limits on attempts do not reveal whose a passkey is."""

import json

import pytest

from authsvc.v1.auth_service_pb2 import LoginRequest
from authsvc.v1.common_pb2 import ClientContext
from tests.support.accounts import EMAIL
from tests.support.passkeys import SoftDevice, begin_login, finish_login, new_holder
from tests.support.probe import outcome
from tests.support.service import Service
from tests.support.ways import forged

UNKNOWN = "nobody@example.test"


async def ends(service: Service, email: str, *, bound: bool, ip: str) -> list[str]:
    """Return the outcomes of forged assertions for an address, then of a wrong password."""
    asked = json.loads((await begin_login(service, email)).options_json)
    found = []
    for _ in range(6):
        begun = await begin_login(service, email if bound else "")
        fresh = {**asked, "challenge": json.loads(begun.options_json)["challenge"]}
        answer = forged(json.dumps(fresh))
        found.append(await outcome(finish_login(service, begun.challenge_id, answer, ip=ip)))
    request = LoginRequest(email=email, password="wrong", client=ClientContext(ip=ip))
    return [*found, await outcome(service.auth().Login(request))]


@pytest.mark.parametrize("bound", [True, False])
async def test_limits_do_not_distinguish_real_from_invented_passkeys(
    service: Service, bound: bool
) -> None:
    await new_holder(service, EMAIL, SoftDevice())
    known = await ends(service, EMAIL, bound=bound, ip="198.51.100.1")
    assert known == await ends(service, UNKNOWN, bound=bound, ip="198.51.100.2")
    # A signature can't be guessed, so forged ones use up nothing of an account.
    assert known == ["CREDENTIALS_INVALID"] * 7


@pytest.mark.parametrize("bound", [True, False])
async def test_forged_assertions_do_not_lock_account(service: Service, bound: bool) -> None:
    await new_holder(service, EMAIL, SoftDevice())
    before = await service.fetch("SELECT failed_logins FROM users")
    await ends(service, EMAIL, bound=bound, ip="198.51.100.1")
    after = await service.fetch("SELECT failed_logins FROM users")
    assert after[0][0] == before[0][0] + 1  # From the wrong password.
