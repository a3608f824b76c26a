"""Attacks on passkeys (REQUIREMENTS of WebAuthn Level 3, sections 7.1, 7.2, 13 and 14.6.2)."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import pytest_asyncio
from webauthn import verify_authentication_response
from webauthn.helpers import verify_signature

from authsvc.config import Settings
from authsvc.dev.authenticator import Authenticator, decode, encode
from tests.support.accounts import EMAIL, cheap_passwords, unlimited
from tests.support.clock import FakeClock
from tests.support.logs import caught
from tests.support.passkeys import (
    NOBODY,
    ORIGIN,
    SoftDevice,
    allowed,
    begin_login,
    begin_registration,
    finish_login,
    finish_registration,
    login,
    new_holder,
    register,
)
from tests.support.probe import failure, outcome, reason_of
from tests.support.service import Service, StartService
from tests.support.statements import Statements, on_one_connection

OTHER = "grace@example.test"
UNKNOWN = "nobody@example.test"


@pytest_asyncio.fixture
async def free(start_service: StartService, live_settings: Settings, clock: FakeClock) -> Service:
    """The whole application, without limits."""
    changes = {"brute_force": unlimited(), "passwords": cheap_passwords()}
    return await start_service(live_settings.model_copy(update=changes), clock)


@pytest.fixture
def device() -> Authenticator:
    return Authenticator(ORIGIN)


def _edit(options_json: str, **changes: Any) -> str:
    return json.dumps(json.loads(options_json) | changes)


def _flip(credential: dict[str, Any], name: str, at: int) -> dict[str, Any]:
    raw = bytearray(decode(credential["response"][name]))
    raw[at] ^= 1
    credential["response"][name] = encode(bytes(raw))
    return credential


def _said(**client_data: Any) -> Callable[[Authenticator, str], Any]:
    return lambda device, options: device.get(options, client_data=client_data)


def _elsewhere(device: Authenticator, options: str) -> Any:
    device.credentials[0].relying_party_id = "evil.test"
    return device.get(_edit(options, rpId="evil.test"))


def _absent(device: Authenticator, options: str) -> Any:
    device.present = False
    return device.get(options)


def _unverified(device: Authenticator, options: str) -> Any:
    device.verifies_user = False
    return device.get(options)


def _without_handle(device: Authenticator, options: str) -> Any:
    assertion = device.get(options)
    del assertion["response"]["userHandle"]
    return assertion


def _handle_of_another(device: Authenticator, options: str) -> Any:
    device.credentials[0].user_handle = bytes(16)
    return device.get(options)


def _another_key(device: Authenticator, options: str) -> Any:
    thief = Authenticator(ORIGIN)
    thief.next_id = device.credentials[0].credential_id
    user = {"id": encode(device.credentials[0].user_handle)}
    thief.create(json.dumps({"rp": {"id": "localhost"}, "user": user, "challenge": ""}))
    thief.credentials[0].sign_count = 99
    return thief.get(options)


ATTACKS: dict[str, Callable[[Authenticator, str], Any]] = {
    "another origin": _said(origin="https://evil.test"),
    "another scheme": _said(origin="https://localhost:8080"),
    "another port": _said(origin="http://localhost:8081"),
    "the origin's beginning": _said(origin="http://localhost"),
    "below the origin": _said(origin="http://localhost:8080/"),
    "no origin": _said(origin=None),
    "list of origins": _said(origin=[ORIGIN]),
    "made, not signed": _said(type="webauthn.create"),
    "no type": _said(type=None),
    "another challenge": _said(challenge=encode(b"c" * 32)),
    "no challenge": _said(challenge=""),
    "embedded": _said(crossOrigin=True),
    "embedded, as text": _said(crossOrigin="false"),
    "another relying party": _elsewhere,
    "nobody present": _absent,
    "nobody verified": _unverified,
    "signature changed": lambda device, options: _flip(device.get(options), "signature", -1),
    "data changed": lambda device, options: _flip(device.get(options), "authenticatorData", 36),
    "page changed": lambda device, options: _flip(device.get(options), "clientDataJSON", -3),
    "another's handle": _handle_of_another,
    "no handle": _without_handle,
    "another key": _another_key,
    "wrapped": lambda device, options: [device.get(options)],
    "another type of credential": lambda device, options: (
        device.get(options) | {"type": "password"}
    ),
    "no answer": lambda device, options: device.get(options) | {"response": {}},
    "id of nobody": lambda device, options: device.get(options) | {"id": "AAAA", "rawId": "AAAA"},
    "id and raw id apart": lambda device, options: device.get(options) | {"id": "AAAA"},
    "empty": lambda *_: {},
    "null": lambda *_: None,
}


@pytest.mark.parametrize("email", ["", EMAIL])
async def test_forged_assertions_are_rejected_alike(
    free: Service, device: Authenticator, email: str
) -> None:
    await new_holder(free, EMAIL, device)
    (credential,) = device.credentials
    handle = credential.user_handle
    # A user known by the address need not be named again.
    attacks = {name: attack for name, attack in ATTACKS.items() if not email or name != "no handle"}
    errors = {}
    for name, attack in attacks.items():
        begun = await begin_login(free, email)
        forged = json.dumps(attack(device, begun.options_json))
        error = await failure(finish_login(free, begun.challenge_id, forged))
        errors[name] = (error.code(), reason_of(error), error.details())
        device.present = device.verifies_user = True
        credential.relying_party_id, credential.user_handle = "localhost", handle
        assert await outcome(login(free, device, email)) == "OK", name
    assert errors == dict.fromkeys(attacks, errors["empty"])
    assert errors["empty"][1] == "CREDENTIALS_INVALID"


async def test_user_handle_is_optional_for_known_user(free: Service, device: Authenticator) -> None:
    await new_holder(free, EMAIL, device)
    begun = await begin_login(free, EMAIL)
    assertion = _without_handle(device, begun.options_json)
    assert await outcome(finish_login(free, begun.challenge_id, assertion)) == "OK"


async def test_assertion_cannot_be_replayed(free: Service, device: Authenticator) -> None:
    await new_holder(free, EMAIL, device)
    begun, another = await begin_login(free), await begin_login(free)
    assertion = device.get(begun.options_json)
    ends = [
        await outcome(finish_login(free, challenge_id, assertion))
        for challenge_id in (begun.challenge_id, begun.challenge_id, another.challenge_id)
    ]
    assert ends == ["OK", "CREDENTIALS_INVALID", "CREDENTIALS_INVALID"]


@pytest.mark.parametrize("target", [EMAIL, UNKNOWN])
async def test_challenge_of_another_user_is_rejected(
    free: Service, device: Authenticator, target: str
) -> None:
    """Using one's own passkey does not reveal whether an account has another address."""
    grace = Authenticator(ORIGIN)
    await new_holder(free, EMAIL, device)
    await new_holder(free, OTHER, grace)
    begun = await begin_login(free, target)
    assertion = grace.get(_edit(begun.options_json, allowCredentials=[]))
    call = finish_login(free, begun.challenge_id, assertion)
    assert await outcome(call) == "CREDENTIALS_INVALID"
    assert await outcome(login(free, grace, OTHER)) == "OK"


async def test_challenges_of_other_kinds_are_rejected(free: Service, device: Authenticator) -> None:
    tokens = await new_holder(free, EMAIL, device)
    registration = await begin_registration(free, tokens)
    asked = json.loads(registration.options_json)["challenge"]
    begun = await begin_login(free)
    signed = device.get(_edit(begun.options_json, challenge=asked))
    assert await outcome(finish_login(free, registration.challenge_id, signed)) == (
        "CREDENTIALS_INVALID"
    )
    made = Authenticator(ORIGIN).create(
        _edit(registration.options_json, challenge=json.loads(begun.options_json)["challenge"])
    )
    call = finish_registration(free, tokens, begun.challenge_id, made)
    assert await outcome(call) == "STATE_INVALID"


async def test_non_increasing_counter_raises_alert(free: Service, device: Authenticator) -> None:
    tokens = await new_holder(free, EMAIL, device)
    (credential,) = device.credentials
    for count, end in ((5, "OK"), (4, "CREDENTIALS_INVALID"), (3, "CREDENTIALS_INVALID")):
        credential.sign_count = count
        with caught() as log:
            assert await outcome(login(free, device)) == end
        assert ("passkey_counter_alert" in log.getvalue()) == (end != "OK")
    # And one that stops counting.
    device.counts, credential.sign_count = False, 0
    assert await outcome(login(free, device)) == "CREDENTIALS_INVALID"
    # Whoever has a copy of the key can also claim that the passkey is meant to be copied.
    device.synced = True
    assert await outcome(login(free, device)) == "CREDENTIALS_INVALID"
    device.synced, device.counts, credential.sign_count = False, True, 6
    assert await outcome(login(free, device)) == "OK"

    rows = await free.fetch(
        "SELECT user_id, detail FROM audit_events WHERE type = 'factor.counter_alert'"
    )
    assert len(rows) == 4
    assert [json.loads(row["detail"])["accepted"] for row in rows] == [False] * 4
    assert {str(row["user_id"]) for row in rows} == {tokens.user_id}
    assert free.app._parts.passkeys.counter_alerts == 4
    (counter,) = await free.fetch("SELECT sign_count FROM factors")
    assert counter["sign_count"] == 7


@pytest.mark.parametrize("claims_backup", [True, False])
async def test_non_increasing_counter_of_backup_eligible_passkey_raises_alert(
    free: Service, claims_backup: bool
) -> None:
    device = Authenticator(ORIGIN, synced=True)
    device.counts = True
    tokens = await new_holder(free, EMAIL, device)
    (credential,) = device.credentials
    # What was said at registration counts.
    device.synced = claims_backup
    alerted = []
    for count in (5, 4, 5, 5, 2):
        credential.sign_count = count - 1
        with caught() as log:
            assert (await login(free, device)).user_id == tokens.user_id
        alerted.append("passkey_counter_alert" in log.getvalue())
    assert alerted == [False, True, False, True, True]
    # Moved to a device that doesn't count.
    device.counts, credential.sign_count = False, 0
    for _ in range(2):
        assert await outcome(login(free, device)) == "OK"

    rows = await free.fetch(
        "SELECT user_id, detail FROM audit_events WHERE type = 'factor.counter_alert'"
    )
    assert {str(row["user_id"]) for row in rows} == {tokens.user_id}
    assert [json.loads(row["detail"])["accepted"] for row in rows] == [True] * 4
    assert free.app._parts.passkeys.counter_alerts == 4


async def test_removed_backup_eligible_passkey_is_rejected(free: Service) -> None:
    device = Authenticator(ORIGIN, synced=True)
    await new_holder(free, EMAIL, device)
    begun = await begin_login(free)
    assertion = device.get(begun.options_json)
    await free.fetch("DELETE FROM factors")
    call = finish_login(free, begun.challenge_id, assertion)
    assert await outcome(call) == "CREDENTIALS_INVALID"


@pytest.mark.parametrize("synced", [False, True])
async def test_same_counter_value_raises_alert_for_all_but_one(free: Service, synced: bool) -> None:
    device = Authenticator(ORIGIN, synced=synced)
    device.counts = True
    await new_holder(free, EMAIL, device)
    (credential,) = device.credentials
    calls = []
    for _ in range(20):
        begun = await begin_login(free)
        credential.sign_count = 7
        assertion = device.get(begun.options_json)
        calls.append(finish_login(free, begun.challenge_id, assertion))
    ends = Counter(await asyncio.gather(*map(outcome, calls)))
    assert ends == ({"OK": 20} if synced else {"OK": 1, "CREDENTIALS_INVALID": 19})
    (alerts,) = await free.fetch(
        "SELECT count(*) FROM audit_events WHERE type = 'factor.counter_alert'"
    )
    assert alerts["count"] == 19


MADE_ELSEWHERE: dict[str, dict[str, Any]] = {
    "another origin": {"origin": "https://evil.test"},
    "signed, not made": {"type": "webauthn.get"},
    "another challenge": {"challenge": encode(b"c" * 32)},
    "embedded": {"crossOrigin": True},
}


async def test_forged_registrations_are_rejected(free: Service, device: Authenticator) -> None:
    tokens = await free.proved_session()
    ends = {}
    for name, said in MADE_ELSEWHERE.items():
        begun = await begin_registration(free, tokens)
        credential = device.create(begun.options_json, client_data=said)
        call = finish_registration(free, tokens, begun.challenge_id, credential)
        ends[name] = await outcome(call)
    for name, change in (("another relying party", {"rp": {"id": "evil.test"}}), ("absent", {})):
        begun = await begin_registration(free, tokens)
        device.present = name != "absent"
        credential = device.create(_edit(begun.options_json, **change))
        call = finish_registration(free, tokens, begun.challenge_id, credential)
        ends[name] = await outcome(call)
    assert ends == dict.fromkeys(ends, "CREDENTIALS_INVALID")
    assert await free.fetch("SELECT FROM factors") == []


async def test_decoys_are_stable_and_look_like_real_ones(
    free: Service, device: Authenticator
) -> None:
    await new_holder(free, EMAIL, device)
    await free.register("without@example.test")
    for email in (UNKNOWN, "without@example.test", OTHER):
        asked = [json.loads((await begin_login(free, email)).options_json) for _ in range(3)]
        assert len({one.pop("challenge") for one in asked}) == 3
        assert asked == [asked[0]] * 3
        known = json.loads((await begin_login(free, EMAIL)).options_json)
        assert asked[0].keys() == known.keys() - {"challenge"}
        (one,) = known["allowCredentials"]
        for decoy in asked[0]["allowCredentials"]:
            assert decoy.keys() == one.keys()
            assert len(decode(decoy["id"])) in {16, 20, 32, 48, 64}
    spelled = {
        str(allowed((await begin_login(free, email)).options_json))
        for email in (UNKNOWN, UNKNOWN.upper())
    }
    assert len(spelled) == 1
    many = [allowed((await begin_login(free, f"{n}@example.test")).options_json) for n in range(40)]
    assert {len(ids) for ids in many} == {1, 2}
    assert len({one for ids in many for one in ids}) == sum(map(len, many))


async def test_known_and_unknown_users_cost_same_work(
    start_service: StartService,
    live_settings: Settings,
    device: Authenticator,
    statements: Statements,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verified: list[object] = []

    def note(**check: Any) -> None:
        verified.append(check["signature_alg"])
        verify_signature(**check)

    monkeypatch.setattr(f"{verify_authentication_response.__module__}.verify_signature", note)
    changes = {"brute_force": unlimited(), "passwords": cheap_passwords()}
    settings = on_one_connection(live_settings).model_copy(update=changes)
    service = await start_service(settings)
    await new_holder(service, EMAIL, device)

    begun = {}
    for email in (EMAIL, EMAIL, UNKNOWN):
        await statements.take(service)
        await begin_login(service, email)
        begun[email] = await statements.take(service)
    assert begun[UNKNOWN] == begun[EMAIL]
    assert len(begun[EMAIL]) >= 2

    async def answer(email: str) -> None:
        asked = await begin_login(service, email)
        (first, *_) = allowed(asked.options_json)
        forged = device.get(_edit(asked.options_json, allowCredentials=[]))
        forged |= {"id": first, "rawId": first}
        forged["response"]["signature"] = encode(b"0" * 70)
        call = finish_login(service, asked.challenge_id, forged, ip="192.0.2.1")
        assert await outcome(call) == "CREDENTIALS_INVALID"

    answered, signatures = {}, {}
    for email in (EMAIL, EMAIL, UNKNOWN):
        verified.clear()
        await answer(email)
        answered[email] = await statements.take(service)
        signatures[email] = list(verified)
    assert answered[UNKNOWN] == answered[EMAIL]
    assert len(answered[EMAIL]) >= 8
    assert signatures[UNKNOWN] == signatures[EMAIL]
    assert len(signatures[EMAIL]) == 1


async def test_records_contain_nothing_that_was_sent(free: Service, device: Authenticator) -> None:
    with caught() as log:
        await new_holder(free, EMAIL, device)
        begun = await begin_login(free, EMAIL)
        assertion = device.get(begun.options_json)
        assert await outcome(finish_login(free, begun.challenge_id, assertion)) == "OK"
        assert await outcome(finish_login(free, NOBODY, assertion)) == "CREDENTIALS_INVALID"
        await begin_login(free, UNKNOWN)
    rows = await free.fetch("SELECT detail::text FROM audit_events")
    records = log.getvalue() + "".join(row["detail"] for row in rows)
    secrets = [json.loads(begun.options_json)["challenge"], EMAIL, UNKNOWN, assertion["id"]]
    secrets += list(assertion["response"].values())
    for secret in secrets:
        assert secret not in records


async def test_soft_webauthn_is_rejected_if_user_verification_is_required(free: Service) -> None:
    tokens = await free.proved_session()
    soft = SoftDevice()
    await register(free, tokens, soft)
    assert await outcome(login(free, soft, EMAIL)) == "CREDENTIALS_INVALID"
