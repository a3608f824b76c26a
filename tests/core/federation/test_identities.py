"""Linking identities to accounts, and unlinking them."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from authsvc.core.federation.providers import ExternalIdentity
from authsvc.errors import ServiceError
from authsvc.models.sessions import RevokeReason
from authsvc.models.tokens import Tokens
from tests.support.accounts import CALL, CLI, EMAIL, PASSWORD
from tests.support.clock import FakeClock
from tests.support.oauth import ADA, CLIENT, Federated

WORK = ExternalIdentity("7", "ada@work.test", True, "A. Lovelace")


async def log_in(federated: Federated, email: str = EMAIL) -> Tokens:
    """Create an account and log in by password."""
    await federated.service.register(email)
    return await federated.service.log_in(CALL, email, PASSWORD, CLIENT)


async def unlink(
    federated: Federated, tokens: Tokens, provider: str = "github", subject: str = WORK.subject
) -> str:
    """Unlink an identity; return the outcome."""
    try:
        claims = await federated.validation.bearer(tokens.access_token)
        await federated.identities.unlink(CALL, claims, provider, subject)
    except ServiceError as error:
        return error.reason.value
    return "OK"


async def notices(federated: Federated) -> list[str]:
    rows = await federated.fetch(
        "SELECT kind FROM outbox WHERE kind LIKE 'identity%' ORDER BY message_id"
    )
    return [row["kind"] for row in rows]


async def linked(federated: Federated) -> list[tuple[str, str]]:
    rows = await federated.fetch("SELECT provider, subject FROM identities ORDER BY 1, 2")
    return [tuple(row) for row in rows]


async def test_linking_logs_in_and_notifies_user(federated: Federated) -> None:
    mine = await log_in(federated)
    tokens, new_user = await federated.log_in(WORK, link=mine.access_token)
    assert (tokens.user_id, new_user) == (mine.user_id, False)
    assert tokens.session_id != mine.session_id
    assert await linked(federated) == [("github", WORK.subject)]
    assert await notices(federated) == ["identity_linked"]
    assert await federated.events("identity.link") == [("identity.link", {"provider": "github"})]
    # No account here has its address, and none gets it.
    again, _ = await federated.log_in(WORK)
    assert again.user_id == mine.user_id
    (user,) = await federated.fetch("SELECT email, email_verify_time FROM users")
    assert tuple(user) == (EMAIL, None)


async def test_linking_requires_no_verified_address(federated: Federated) -> None:
    mine = await log_in(federated)
    assert await federated.tries(ExternalIdentity("7"), link=mine.access_token) == "OK"


@pytest.mark.parametrize("proved", [True, False])
async def test_linking_verifies_matching_account_address(
    proved: bool, federated: Federated, clock: FakeClock
) -> None:
    mine = await log_in(federated)
    identity = replace(ADA, email_verified=proved)
    await federated.log_in(identity, link=mine.access_token)
    (user,) = await federated.fetch("SELECT email_verify_time FROM users")
    assert user[0] == (clock.now() if proved else None)


async def test_linking_again_logs_in(federated: Federated) -> None:
    mine = await log_in(federated)
    for _ in range(2):
        assert await federated.tries(WORK, link=mine.access_token) == "OK"
    assert await notices(federated) == ["identity_linked"]
    assert len(await federated.events("identity.link")) == 1


async def test_identity_of_another_user_is_not_linked(federated: Federated) -> None:
    other, _ = await federated.log_in(WORK)
    mine = await log_in(federated)
    assert await federated.tries(WORK, link=mine.access_token) == "LINK_REQUIRES_LOGIN"
    tokens, _ = await federated.log_in(WORK)
    assert tokens.user_id == other.user_id
    assert await notices(federated) == []


@pytest.mark.slow
async def test_concurrent_links_of_one_identity_have_one_winner(federated: Federated) -> None:
    owners = [await log_in(federated, f"u{n}@example.test") for n in range(10)]
    ends = await asyncio.gather(
        *(federated.tries(WORK, link=owner.access_token) for owner in owners)
    )
    assert Counter(ends) == {"OK": 1, "LINK_REQUIRES_LOGIN": 9}
    assert len(await linked(federated)) == 1
    assert await notices(federated) == ["identity_linked"]


async def test_linking_requires_recent_login(federated: Federated, clock: FakeClock) -> None:
    mine = await log_in(federated)
    clock.advance(timedelta(minutes=10, seconds=1))
    assert await federated.tries(WORK, link=mine.access_token) == "REAUTHENTICATION_REQUIRED"
    clock.advance(timedelta(hours=1))
    assert await federated.tries(WORK, link=mine.access_token) == "BEARER_INVALID"
    assert await federated.tries(WORK, link="x") == "BEARER_INVALID"
    assert await federated.tries(WORK, link=mine.refresh_token) == "BEARER_INVALID"
    assert await linked(federated) == []


@pytest.mark.slow
async def test_session_revoked_after_start_cannot_link(federated: Federated) -> None:
    sessions = federated.service.sessions
    mine = await log_in(federated)
    state = await federated.begin(link=mine.access_token)
    await sessions.ending.revoke(CALL, mine.session_id)
    with pytest.raises(ServiceError) as refused:
        await federated.complete(state, WORK)
    assert refused.value.reason == "STATE_INVALID"
    assert await linked(federated) == []
    # Nor can one be started, though a replica may still consider its token active.
    with pytest.raises(ServiceError) as refused:
        await federated.begin(link=mine.access_token)
    assert refused.value.reason == "BEARER_INVALID"


@pytest.mark.slow
async def test_session_revoked_during_linking_links_nothing(
    federated: Federated, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = federated.service
    mine = await log_in(federated)
    state = await federated.begin(link=mine.access_token)
    choose = federated.login._choose

    async def end_after(login: object) -> object:
        chosen = await choose(login)  # type: ignore[arg-type]
        async with service.database.transaction() as connection:
            await service.sessions.ending.revoke_in(
                connection, CALL, mine.user_id, RevokeReason.PASSWORD_CHANGED
            )
        return chosen

    monkeypatch.setattr(federated.login, "_choose", end_after)
    with pytest.raises(ServiceError) as refused:
        await federated.complete(state, WORK)
    assert refused.value.reason == "STATE_INVALID"
    assert await linked(federated) == []


@pytest.mark.parametrize("statement", ["DELETE FROM users", "DELETE FROM sessions"])
async def test_deleted_user_or_session_cannot_complete_linking(
    statement: str, federated: Federated
) -> None:
    mine = await log_in(federated)
    state = await federated.begin(link=mine.access_token)
    await federated.fetch(statement)
    with pytest.raises(ServiceError) as refused:
        await federated.complete(state, WORK)
    assert refused.value.reason == "STATE_INVALID"
    with pytest.raises(ServiceError) as refused:
        await federated.begin(link=mine.access_token)
    assert refused.value.reason == "BEARER_INVALID"


@pytest.mark.slow
async def test_disabled_user_cannot_link(federated: Federated) -> None:
    mine = await log_in(federated)
    state = await federated.begin(link=mine.access_token)
    await federated.fetch("UPDATE users SET status = 'disabled'")
    with pytest.raises(ServiceError) as refused:
        await federated.complete(state, WORK)
    assert refused.value.reason == "CREDENTIALS_INVALID"
    assert await linked(federated) == []


@pytest.mark.slow
async def test_user_can_link_at_most_twenty_identities(federated: Federated) -> None:
    mine = await log_in(federated)
    ends = [
        await federated.tries(replace(WORK, subject=str(n)), link=mine.access_token)
        for n in range(21)
    ]
    assert ends == ["OK"] * 20 + ["LIMIT_REACHED"]
    assert len(await federated.identities.list(mine.user_id)) == 20
    assert len(await linked(federated)) == 20


async def test_identities_are_listed_oldest_first(federated: Federated, clock: FakeClock) -> None:
    mine = await log_in(federated)
    await log_in(federated, "b@example.test")
    assert list(await federated.identities.list(mine.user_id)) == []
    made = clock.now()
    await federated.log_in(WORK, "other", link=mine.access_token)
    clock.advance(60)
    await federated.log_in(WORK, "github", link=mine.access_token)
    await federated.log_in(replace(WORK, email="new@work.test"), "other")
    first, second = await federated.identities.list(mine.user_id)
    assert (first.provider, first.subject, first.email) == ("other", "7", "new@work.test")
    assert (first.create_time, first.last_use_time) == (made, clock.now())
    assert (second.provider, second.create_time) == ("github", clock.now())
    assert "work.test" not in repr(first)


@pytest.mark.slow
async def test_unlinking_notifies_user(federated: Federated) -> None:
    mine = await log_in(federated)
    await federated.log_in(WORK, link=mine.access_token)
    assert await unlink(federated, mine) == "OK"
    assert await linked(federated) == []
    assert await notices(federated) == ["identity_linked", "identity_unlinked"]
    assert await federated.events("identity.unlink") == [
        ("identity.unlink", {"provider": "github"})
    ]
    assert await unlink(federated, mine) == "IDENTITY_NOT_FOUND"
    # A login with it now belongs to a new user.
    tokens, new_user = await federated.log_in(WORK)
    assert new_user
    assert tokens.user_id != mine.user_id


@pytest.mark.slow
async def test_only_own_identity_can_be_unlinked(federated: Federated) -> None:
    mine = await log_in(federated)
    await federated.log_in(WORK)
    for provider, subject in (("github", "7"), ("other", "7"), ("github", "8"), ("", "")):
        assert await unlink(federated, mine, provider, subject) == "IDENTITY_NOT_FOUND"
    assert await linked(federated) == [("github", "7")]


async def test_unlinking_requires_recent_login(federated: Federated, clock: FakeClock) -> None:
    mine = await log_in(federated)
    await federated.log_in(WORK, link=mine.access_token)
    clock.advance(timedelta(minutes=10, seconds=1))
    assert await unlink(federated, mine) == "REAUTHENTICATION_REQUIRED"
    assert len(await linked(federated)) == 1


async def test_last_credential_cannot_be_unlinked(federated: Federated) -> None:
    mine, _ = await federated.log_in(WORK)
    assert await unlink(federated, mine) == "LAST_CREDENTIAL"
    assert len(await linked(federated)) == 1
    assert await notices(federated) == []
    await federated.log_in(replace(WORK, subject="8"), link=mine.access_token)
    assert await unlink(federated, mine) == "OK"
    assert await unlink(federated, mine, subject="8") == "LAST_CREDENTIAL"


PASSKEY = """
INSERT INTO factors (factor_id, user_id, kind, create_time, confirm_time, credential_id, public_key,
                     sign_count)
VALUES ($1, $1, 'passkey', now(), CASE WHEN $2 THEN now() END, '\\x00', '\\x00', 0)
"""


@pytest.mark.parametrize(("confirmed", "end"), [(True, "OK"), (False, "LAST_CREDENTIAL")])
async def test_only_confirmed_passkey_allows_unlinking_last_identity(
    confirmed: bool, end: str, federated: Federated
) -> None:
    mine, _ = await federated.log_in(WORK)
    await federated.fetch(PASSKEY, mine.user_id, confirmed)
    assert await unlink(federated, mine) == end


@pytest.mark.slow
async def test_concurrent_unlinks_leave_one_identity(federated: Federated) -> None:
    mine, _ = await federated.log_in(WORK)
    subjects = [str(n) for n in range(10)]
    for subject in subjects:
        await federated.log_in(replace(WORK, subject=subject), link=mine.access_token)
    ends = await asyncio.gather(*(unlink(federated, mine, subject=subject) for subject in subjects))
    assert Counter(ends) == {"OK": 9, "LAST_CREDENTIAL": 1}
    assert len(await linked(federated)) == 1


async def test_disabled_or_deleted_user_cannot_list_or_unlink(federated: Federated) -> None:
    mine = await log_in(federated)
    await federated.log_in(WORK, link=mine.access_token)
    claims = await federated.validation.bearer(mine.access_token)
    await federated.service.accounts.disable(CLI, mine.user_id)
    for statement in ("SELECT", "DELETE FROM users"):
        await federated.fetch(statement)
        for call in (
            federated.identities.list(mine.user_id),
            federated.identities.unlink(CALL, claims, "github", WORK.subject),
        ):
            with pytest.raises(ServiceError) as refused:
                await call
            assert refused.value.reason == "BEARER_INVALID"
