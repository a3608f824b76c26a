"""Completion of logins at external providers: which account they belong to, and the outcome."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from authsvc.core.federation.providers import ExternalIdentity
from authsvc.errors import ServiceError
from authsvc.models.factors import MfaChallenge
from authsvc.store import emails
from tests.support.accounts import CLI, EMAIL, PASSWORD, WRONG
from tests.support.clock import FakeClock
from tests.support.factors import Secured, reason
from tests.support.logins import Replicas
from tests.support.oauth import ADA, Federated

RENAMED = replace(ADA, email="countess@example.test", display_name="Countess")
STRANGER = replace(ADA, subject="1816")

SNAPSHOT = """
SELECT (SELECT string_agg(u::text, ';') FROM users u),
       (SELECT string_agg(i::text, ';') FROM identities i),
       (SELECT string_agg(s::text, ';') FROM sessions s)
"""


async def stored(federated: Federated) -> tuple[str, ...]:
    """Return the contents of users, identities and sessions, except the failure counts."""
    await federated.fetch("UPDATE users SET failed_logins = 0")
    return tuple((await federated.fetch(SNAPSHOT))[0])


async def verified(federated: Federated, email: str = EMAIL) -> None:
    """Create an account with a password and a verified address."""
    service = federated.service
    user_id = await service.register(email)
    async with service.database.connection() as connection:
        now = service.clock.now()
        assert await emails.verify(connection, user_id, email.lower(), now)


@pytest.mark.slow
async def test_new_user_gets_account(federated: Federated, clock: FakeClock) -> None:
    tokens, new_user = await federated.log_in()
    assert new_user
    (user,) = await federated.fetch("SELECT * FROM users")
    assert (user["user_id"], user["email"]) == (tokens.user_id, "ada@example.test")
    assert (user["display_name"], user["roles"], user["status"]) == ("Ada", ["user"], "active")
    assert (user["password_hash"], user["pepper_id"]) == (None, None)
    assert user["email_verify_time"] == user["create_time"] == clock.now()
    assert (user["origin"], user["last_login_time"]) == ("federated", clock.now())
    assert await federated.events() == [
        ("user.register", {"provider": "github"}),
        ("identity.link", {"provider": "github"}),
        ("user.login", {"methods": ["fed"], "new_device": True, "replaced": []}),
    ]
    # The account has no password to guess.
    assert await federated.service.login("") == "FIELD_INVALID"
    assert await federated.service.login() == "CREDENTIALS_INVALID"


async def test_user_is_identified_by_subject(federated: Federated, clock: FakeClock) -> None:
    first, _ = await federated.log_in()
    clock.advance(60)
    second, new_user = await federated.log_in(RENAMED)
    assert (second.user_id, new_user) == (first.user_id, False)
    third, _ = await federated.log_in(ExternalIdentity(ADA.subject))
    assert third.user_id == first.user_id
    (identity,) = await federated.fetch("SELECT * FROM identities")
    assert (identity["provider"], identity["subject"]) == ("github", ADA.subject)
    assert identity["create_time"] == clock.now() - timedelta(seconds=60)
    assert identity["last_use_time"] == clock.now()
    # What the provider reports later changes nothing here.
    (user,) = await federated.fetch("SELECT email, display_name, last_login_time FROM users")
    assert tuple(user) == (ADA.email, ADA.display_name, clock.now())


async def test_same_subject_at_another_provider_is_another_user(federated: Federated) -> None:
    first, _ = await federated.log_in()
    other = replace(ADA, email="b@example.test")
    second, new_user = await federated.log_in(other, "other")
    assert new_user
    assert second.user_id != first.user_id


@pytest.mark.parametrize(
    "identity",
    [
        STRANGER,
        replace(STRANGER, email="ADA@EXAMPLE.TEST"),
        replace(ADA, subject="ada@example.test"),
    ],
    ids=["same", "in capitals", "subject is the address"],
)
@pytest.mark.parametrize("way", ["password", "provider"])
async def test_verified_account_is_not_taken_over_by_address(
    way: str, identity: ExternalIdentity, federated: Federated
) -> None:
    if way == "password":
        await verified(federated)
    else:
        await federated.log_in()
    before = await stored(federated)
    assert await federated.tries(identity) == "LINK_REQUIRES_LOGIN"
    assert await federated.tries(replace(ADA, subject="x"), "other") == "LINK_REQUIRES_LOGIN"
    assert await stored(federated) == before
    if way == "password":
        assert await federated.service.login() == "OK"


NOT_VERIFIED = {
    "not verified": replace(ADA, email_verified=False),
    "no address": ExternalIdentity("1815", "", False, "Ada"),
    "verified nothing": ExternalIdentity("1815", "", True, "Ada"),
    "no address at all": replace(ADA, email="ada"),
    "two addresses": replace(ADA, email="ada@example.test,b@example.test"),
    "line break": replace(ADA, email="ada@example.test\nb@example.test"),
    "look-alike": replace(ADA, email="\uff41da@example.test"),
    "hidden at sign": replace(ADA, email="a\ufe6bb@example.test"),
}


@pytest.mark.parametrize("case", NOT_VERIFIED)
@pytest.mark.parametrize("exists", [False, True])
async def test_new_user_requires_verified_address(
    exists: bool, case: str, federated: Federated
) -> None:
    if exists:
        await federated.service.register()
    before = await stored(federated)
    assert await federated.tries(NOT_VERIFIED[case]) == "EMAIL_NOT_VERIFIED"
    assert await stored(federated) == before


async def test_known_user_requires_no_address(federated: Federated) -> None:
    await federated.log_in()
    for identity in NOT_VERIFIED.values():
        assert await federated.tries(identity) == "OK"


async def test_disabled_account_is_rejected(federated: Federated) -> None:
    tokens, _ = await federated.log_in()
    await federated.service.accounts.disable(CLI, tokens.user_id)
    before = await stored(federated)
    for identity in (ADA, STRANGER):
        assert await federated.tries(identity) == "CREDENTIALS_INVALID"
    assert await stored(federated) == before
    assert (
        await federated.events("user.login_failure")
        == [("user.login_failure", {"cause": "disabled"})] * 2
    )


async def test_disabled_unverified_account_is_not_reclaimed(
    federated: Federated,
) -> None:
    await federated.service.accounts.disable(CLI, await federated.service.register())
    before = await stored(federated)
    assert await federated.tries() == "CREDENTIALS_INVALID"
    assert await stored(federated) == before


async def test_rejections_by_provider_are_recorded(federated: Federated) -> None:
    assert await federated.tries(None) == "CREDENTIALS_INVALID"
    assert await federated.events() == [
        ("user.login_failure", {"cause": "provider", "provider": "github"})
    ]


async def test_second_factor_is_still_required(federated: Federated) -> None:
    tokens, _ = await federated.log_in()
    secured = Secured(federated.service)
    await secured.secure(tokens.user_id)
    assert await federated.tries() == "MFA"
    (challenge,) = await federated.fetch("SELECT methods FROM challenges")
    assert challenge["methods"] == ["fed"]


@pytest.mark.slow
async def test_password_lockout_does_not_block_federated_login(
    federated: Federated,
) -> None:
    await federated.log_in()
    for _ in range(50):
        assert await federated.service.login(WRONG, device="another") == "CREDENTIALS_INVALID"
    assert await federated.service.login(PASSWORD) == "CREDENTIALS_INVALID"
    (user,) = await federated.fetch("SELECT failed_logins FROM users")
    assert user["failed_logins"] == 50
    await federated.fetch("DELETE FROM devices")
    assert await federated.tries() == "OK"
    (user,) = await federated.fetch("SELECT failed_logins FROM users")
    assert user["failed_logins"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("device", ["", "new"])
async def test_strangers_cannot_lock_out_user_of_provider_with_app(
    replicas: Replicas, clock: FakeClock, device: str
) -> None:
    federated = Federated(await replicas.start(), clock)
    service = federated.service
    tokens, _ = await federated.log_in()
    secured = Secured(service)
    app, _ = await secured.secure(tokens.user_id)
    clock.advance(300)
    for turn in range(25):
        await service.login(WRONG, email=ADA.email, ip=f"10.0.0.{turn}", device="stranger")
    await federated.fetch("UPDATE users SET failed_logins = 50")
    assert await service.login(email=ADA.email, ip="10.1.0.1") == "TOO_MANY_ATTEMPTS"

    outcome = (await federated.complete(await federated.begin(), ADA)).outcome
    assert isinstance(outcome, MfaChallenge)
    # A code can be guessed, but no stranger has got so far; wrong ones count with known devices.
    for _ in range(2):
        assert (
            await reason(secured.verify(outcome.mfa_token, app.wrong(), device=device))
            == "CREDENTIALS_INVALID"
        )
    (user,) = await federated.fetch("SELECT failed_logins, failed_device_logins FROM users")
    assert tuple(user) == (50, 2)
    assert await reason(secured.verify(outcome.mfa_token, app.code(), device=device)) == "OK"
    # Both halves together still bound the guesses of somebody who can log in at the provider.
    await federated.fetch("UPDATE users SET failed_logins = 50, failed_device_logins = 50")
    outcome = (await federated.complete(await federated.begin(), ADA)).outcome
    assert isinstance(outcome, MfaChallenge)
    clock.advance(60)
    assert await reason(secured.verify(outcome.mfa_token, app.code(), device=device)) != "OK"


async def race(federated: Federated, *identities: ExternalIdentity) -> Counter[str]:
    """Complete a login for each at once; return the counts of their outcomes."""
    states = [await federated.begin() for _ in identities]

    async def complete(state: str, identity: ExternalIdentity) -> str:
        try:
            outcome = await federated.complete(state, identity)
        except ServiceError as error:
            return error.reason.value
        return "new" if outcome.new_user else "OK"

    return Counter(await asyncio.gather(*map(complete, states, identities)))


@pytest.mark.slow
async def test_concurrent_first_logins_create_one_account(federated: Federated) -> None:
    assert await race(federated, *[ADA] * 50) == {"new": 1, "OK": 49}
    assert len(await federated.fetch("SELECT FROM users")) == 1
    assert len(await federated.fetch("SELECT FROM identities")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("exists", [False, True])
async def test_login_that_decided_before_account_was_linked_gets_it(
    federated: Federated, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    if exists:
        await federated.service.register(ADA.email)
    decided, first_is_done = asyncio.Semaphore(0), asyncio.Event()
    choose = federated.login._choose

    async def choose_and_wait(login: object) -> object:
        chosen = await choose(login)  # type: ignore[arg-type]
        if not first_is_done.is_set():
            decided.release()
            await first_is_done.wait()
        return chosen

    monkeypatch.setattr(federated.login, "_choose", choose_and_wait)
    others = asyncio.create_task(race(federated, *[ADA] * 29))
    for _ in range(29):
        await decided.acquire()
    monkeypatch.setattr(federated.login, "_choose", choose)
    assert await federated.tries() == "OK"
    first_is_done.set()
    assert await others == {"OK": 29}
    assert len(await federated.fetch("SELECT FROM users")) == 1
    assert len(await federated.fetch("SELECT FROM identities")) == 1


@pytest.mark.slow
async def test_one_identity_with_changing_addresses_creates_one_account(
    federated: Federated,
) -> None:
    changing = [replace(ADA, email=f"ada{n}@example.test") for n in range(20)]
    assert await race(federated, *changing) == {"new": 1, "OK": 19}
    assert len(await federated.fetch("SELECT FROM users")) == 1


@pytest.mark.slow
async def test_concurrent_identities_with_one_address_have_one_winner(
    federated: Federated,
) -> None:
    many = [replace(ADA, subject=str(n)) for n in range(20)]
    assert await race(federated, *many) == {"new": 1, "LINK_REQUIRES_LOGIN": 19}
    assert len(await federated.fetch("SELECT FROM identities")) == 1


@pytest.mark.slow
async def test_concurrent_reclaims_have_one_winner(federated: Federated) -> None:
    await federated.service.register()
    many = [replace(ADA, subject=str(n)) for n in range(20)]
    assert await race(federated, *many) == {"OK": 1, "LINK_REQUIRES_LOGIN": 19}
    assert len(await federated.events("user.owner_arrived")) == 1
    assert len(await federated.fetch("SELECT FROM identities")) == 1


async def test_account_deleted_during_login_is_created_again(
    federated: Federated, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = await federated.log_in()
    choose = federated.login._choose
    gone: list[object] = []

    async def delete_after(login: object) -> object:
        chosen = await choose(login)  # type: ignore[arg-type]
        if not gone:
            gone.append(await federated.fetch("DELETE FROM users"))
        return chosen

    monkeypatch.setattr(federated.login, "_choose", delete_after)
    second, new_user = await federated.log_in()
    assert new_user
    assert second.user_id != first.user_id
