"""The registration of passkeys, from the callers' side."""

import asyncio
import json
from collections import Counter
from uuid import UUID, uuid4

import pytest

from authsvc.config import Settings
from authsvc.dev.authenticator import Authenticator, decode, encode
from authsvc.v1.account_service_pb2 import (
    DeleteAccountRequest,
    GetAccountRequest,
    ListFactorsRequest,
    RemoveFactorRequest,
    UpdateAccountRequest,
)
from authsvc.v1.auth_service_pb2 import LoginRequest
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.clock import FakeClock
from tests.support.passkeys import (
    NOBODY,
    ORIGIN,
    STATEMENTS,
    SoftDevice,
    bearer,
    begin_registration,
    finish_registration,
    login,
    register,
    state,
)
from tests.support.probe import failure, outcome, reason_of, with_changes
from tests.support.service import Service, StartService

OTHER = "grace@example.test"


@pytest.mark.fast
@pytest.mark.parametrize("device", [SoftDevice(), Authenticator(ORIGIN)], ids=["soft", "own"])
async def test_passkey_is_effective_immediately(service: Service, device: SoftDevice) -> None:
    tokens = await service.proved_session()
    registered = await register(service, tokens, device, "Ada’s key")
    factor = registered.factor
    assert (factor.kind, factor.name) == ("passkey", "Ada’s key")
    assert len(set(registered.recovery_codes)) == 10
    listed = await service.account().ListFactors(ListFactorsRequest(), metadata=bearer(tokens))
    assert list(listed.factors) == [factor]
    own = await service.account().GetAccount(GetAccountRequest(), metadata=bearer(tokens))
    assert own.account.has_second_factor
    answer = await service.auth().Login(LoginRequest(email=EMAIL, password=PASSWORD))
    assert list(answer.mfa.methods)[:1] == ["passkey"]

    second = await register(service, tokens, Authenticator(ORIGIN))
    assert list(second.recovery_codes) == []
    for table, column in (("outbox", "kind"), ("audit_events", "type")):
        rows = await service.fetch(
            f"SELECT count(*) FROM {table} WHERE {column} IN ('factor_added', 'factor.enroll')"
        )
        assert rows[0]["count"] == 2


async def test_registration_returns_creation_options(service: Service) -> None:
    tokens = await service.proved_session()
    device = Authenticator(ORIGIN)
    await register(service, tokens, device)
    begun = await begin_registration(service, tokens)
    options = json.loads(begun.options_json)
    assert options["rp"] == {"id": "localhost", "name": "authsvc"}
    assert decode(options["user"]["id"]) == UUID(tokens.user_id).bytes
    assert options["user"]["name"] == EMAIL
    assert len(decode(options["challenge"])) == 32
    assert [kind["alg"] for kind in options["pubKeyCredParams"]] == [-7, -8, -257]
    assert options["excludeCredentials"] == [
        {
            "id": encode(device.credentials[0].credential_id),
            "type": "public-key",
            "transports": ["internal"],
        }
    ]
    assert options["authenticatorSelection"]["residentKey"] == "required"
    assert options["attestation"] == "none"


async def test_passkeys_with_attestation_of_every_format_log_in(service: Service) -> None:
    tokens = await service.proved_session()
    names = [name for name in STATEMENTS if name != "none"]
    devices = [Authenticator(ORIGIN) for _ in names]
    for name, device in zip(names, devices, strict=True):
        begun = await begin_registration(service, tokens)
        credential = state(device.create(begun.options_json), name)
        await finish_registration(service, tokens, begun.challenge_id, credential, name)
    for device in devices:
        assert (await login(service, device)).user_id == tokens.user_id


async def test_user_may_be_absent_only_if_challenge_is_conditional(service: Service) -> None:
    tokens = await service.proved_session()
    device = Authenticator(ORIGIN, synced=True)
    plain = await begin_registration(service, tokens)
    conditional = await begin_registration(service, tokens, conditional=True)
    # An answer to another challenge than the one it is sent with, too.
    ends = []
    for asked, sent in ((conditional, plain), (plain, conditional), (plain, plain)):
        begun = await begin_registration(service, tokens, conditional=sent is conditional)
        options = json.loads(begun.options_json)
        if asked is not sent:
            options["challenge"] = json.loads(asked.options_json)["challenge"]
        device.present = device.verifies_user = False
        credential = device.create(json.dumps(options))
        call = finish_registration(service, tokens, begun.challenge_id, credential)
        ends.append(await outcome(call))
    assert ends == ["CREDENTIALS_INVALID"] * 3
    assert await service.fetch("SELECT FROM factors") == []

    device.credentials.clear()
    begun = await begin_registration(service, tokens, conditional=True)
    credential = device.create(begun.options_json)
    calls = (
        outcome(finish_registration(service, tokens, begun.challenge_id, credential))
        for _ in range(20)
    )
    assert Counter(await asyncio.gather(*calls)) == {"OK": 1, "STATE_INVALID": 19}
    # To log in, the user has to be there.
    assert await outcome(login(service, device)) == "CREDENTIALS_INVALID"
    device.present = device.verifies_user = True
    assert (await login(service, device)).user_id == tokens.user_id


async def test_later_plain_challenge_replaces_conditional_one(service: Service) -> None:
    tokens = await service.proved_session()
    first = await begin_registration(service, tokens, conditional=True)
    second = await begin_registration(service, tokens)
    device = Authenticator(ORIGIN)
    device.present = False
    for begun, end in ((first, "STATE_INVALID"), (second, "CREDENTIALS_INVALID")):
        credential = device.create(begun.options_json)
        call = finish_registration(service, tokens, begun.challenge_id, credential)
        assert await outcome(call) == end


async def test_answers_tell_browser_which_passkeys_are_accepted(service: Service) -> None:
    tokens = await service.proved_session()
    metadata = bearer(tokens)
    handle = encode(UUID(tokens.user_id).bytes)
    devices = [Authenticator(ORIGIN) for _ in range(2)]
    registered = [await register(service, tokens, device) for device in devices]
    first, second = (encode(device.credentials[0].credential_id) for device in devices)
    listed = await service.account().ListFactors(ListFactorsRequest(), metadata=metadata)
    for signals, ids in (
        (registered[0].passkey_signals, [first]),
        (registered[1].passkey_signals, [first, second]),
        (listed.passkey_signals, [first, second]),
    ):
        assert json.loads(signals.all_accepted_credentials_json) == {
            "rpId": "localhost",
            "userId": handle,
            "allAcceptedCredentialIds": ids,
        }
        assert json.loads(signals.current_user_details_json)["userId"] == handle
        assert signals.unknown_credential_json == ""

    removal = RemoveFactorRequest(factor_id=registered[0].factor.factor_id)
    removed = await service.account().RemoveFactor(removal, metadata=metadata)
    signals = removed.passkey_signals
    accepted = json.loads(signals.all_accepted_credentials_json)
    assert accepted["allAcceptedCredentialIds"] == [second]
    unknown = json.loads(signals.unknown_credential_json)
    assert unknown == {"rpId": "localhost", "credentialId": first}

    deleted = await service.account().DeleteAccount(DeleteAccountRequest(), metadata=metadata)
    assert json.loads(deleted.passkey_signals.all_accepted_credentials_json) == {
        "rpId": "localhost",
        "userId": handle,
        "allAcceptedCredentialIds": [],
    }


async def test_answers_tell_browser_current_name_and_address(service: Service) -> None:
    tokens = await service.proved_session()
    details = {"rpId": "localhost", "userId": encode(UUID(tokens.user_id).bytes)}
    for name in ("Ada Löv", ""):
        renamed = await service.account().UpdateAccount(
            UpdateAccountRequest(display_name=name), metadata=bearer(tokens)
        )
        found = json.loads(renamed.passkey_signals.current_user_details_json)
        shown = {"name": EMAIL, "displayName": name or EMAIL}
        assert found == details | shown
        # A browser that gets a partial list would hide the other passkeys.
        assert renamed.passkey_signals.all_accepted_credentials_json == ""
        options = json.loads((await begin_registration(service, tokens)).options_json)
        assert options["user"] == {"id": details["userId"]} | shown


async def test_registration_requires_recent_login(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.proved_session()
    begun = await begin_registration(timed, tokens)
    credential = Authenticator(ORIGIN).create(begun.options_json)
    clock.advance(601)
    assert await outcome(begin_registration(timed, tokens)) == "REAUTHENTICATION_REQUIRED"
    call = finish_registration(timed, tokens, begun.challenge_id, credential)
    assert await outcome(call) == "REAUTHENTICATION_REQUIRED"


async def test_challenge_is_single_use_whether_answered_correctly_or_not(service: Service) -> None:
    tokens = await service.proved_session()
    begun = await begin_registration(service, tokens)
    credential = Authenticator(ORIGIN).create(begun.options_json)
    calls = (
        outcome(finish_registration(service, tokens, begun.challenge_id, credential))
        for _ in range(20)
    )
    assert Counter(await asyncio.gather(*calls)) == {"OK": 1, "STATE_INVALID": 19}

    begun = await begin_registration(service, tokens)
    credential = Authenticator(ORIGIN).create(begun.options_json)
    ends = [
        await outcome(finish_registration(service, tokens, begun.challenge_id, answer))
        for answer in ("{}", credential)
    ]
    assert ends == ["CREDENTIALS_INVALID", "STATE_INVALID"]


async def test_only_newest_challenge_of_its_user_is_accepted(service: Service) -> None:
    ada, grace = await service.proved_session(), await service.proved_session(OTHER)
    first = await begin_registration(service, ada)
    newest = await begin_registration(service, ada)
    credential = Authenticator(ORIGIN).create(newest.options_json)
    for tokens, challenge_id, end in (
        (ada, first.challenge_id, "STATE_INVALID"),
        (ada, NOBODY, "STATE_INVALID"),
        (grace, newest.challenge_id, "STATE_INVALID"),
        # The other user's attempt has not used it up.
        (ada, newest.challenge_id, "OK"),
    ):
        call = finish_registration(service, tokens, challenge_id, credential)
        assert await outcome(call) == end


async def test_challenge_expires(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.proved_session()
    for seconds, end in ((299, "OK"), (300, "STATE_INVALID")):
        begun = await begin_registration(timed, tokens)
        credential = Authenticator(ORIGIN).create(begun.options_json)
        clock.advance(seconds)
        call = finish_registration(timed, tokens, begun.challenge_id, credential)
        assert await outcome(call) == end


async def test_taken_credential_id_is_indistinguishable_from_garbage(service: Service) -> None:
    ada, grace = await service.proved_session(), await service.proved_session(OTHER)
    device = Authenticator(ORIGIN)
    await register(service, ada, device)
    (taken,) = device.credentials

    results = []
    for tokens, stolen in ((ada, True), (grace, True), (grace, False)):
        begun = await begin_registration(service, tokens)
        thief = Authenticator(ORIGIN)
        thief.next_id = taken.credential_id
        credential = thief.create(begun.options_json) if stolen else "{}"
        call = finish_registration(service, tokens, begun.challenge_id, credential)
        error = await failure(call)
        results.append((error.code(), reason_of(error), error.details()))
    assert results == [results[0]] * 3
    assert results[0][1] == "CREDENTIALS_INVALID"
    assert (await login(service, device)).user_id == ada.user_id


async def test_number_of_passkeys_is_limited(
    start_service: StartService, live_settings: Settings
) -> None:
    limited = with_changes(live_settings, "second_factors", max_per_user=3)
    service = await start_service(limited)
    tokens = await service.proved_session()
    # More concurrent registrations than a user can begin, each with its own challenge.
    options = json.loads((await begin_registration(service, tokens)).options_json)
    calls = []
    for _ in range(10):
        challenge_id, challenge = uuid4(), uuid4().bytes * 2
        await service.fetch(
            "INSERT INTO challenges"
            " (challenge_id, kind, user_id, passkey, create_time, expire_time)"
            " VALUES ($1, 'passkey_registration', $2, $3, now(), now() + interval '1 hour')",
            challenge_id,
            UUID(tokens.user_id),
            challenge,
        )
        asked = json.dumps(options | {"challenge": encode(challenge)})
        credential = Authenticator(ORIGIN).create(asked)
        calls.append(finish_registration(service, tokens, str(challenge_id), credential))
    ends = Counter(await asyncio.gather(*map(outcome, calls)))
    assert ends == {"OK": 3, "LIMIT_REACHED": 7}
    assert await outcome(begin_registration(service, tokens)) == "LIMIT_REACHED"
    listed = await service.account().ListFactors(ListFactorsRequest(), metadata=bearer(tokens))
    assert len(listed.factors) == 3
    removed = RemoveFactorRequest(factor_id=listed.factors[0].factor_id)
    await service.account().RemoveFactor(removed, metadata=bearer(tokens))
    assert await outcome(begin_registration(service, tokens)) == "OK"


async def test_user_disabled_meanwhile_registers_nothing(service: Service) -> None:
    tokens = await service.proved_session()
    begun = await begin_registration(service, tokens)
    credential = Authenticator(ORIGIN).create(begun.options_json)
    # Without notifying the caches: the use case itself must notice.
    await service.fetch("UPDATE users SET status = 'disabled'")
    call = finish_registration(service, tokens, begun.challenge_id, credential)
    assert await outcome(call) == "BEARER_INVALID"
    assert await outcome(begin_registration(service, tokens)) == "BEARER_INVALID"
    assert await service.fetch("SELECT FROM factors") == []


async def test_invalid_fields_are_named(service: Service) -> None:
    tokens = await service.proved_session()
    for challenge_id, credential, name in (
        ("x", "{}", ""),
        ("", "{}", ""),
        (NOBODY, "", ""),
        (NOBODY, "x" * 16_385, ""),
        (NOBODY, "\0", ""),
        (NOBODY, "{}", "é" * 33),
        (NOBODY, "{}", "\0"),
    ):
        call = finish_registration(service, tokens, challenge_id, credential, name)
        assert await outcome(call) == "FIELD_INVALID"
