"""Registration tokens: only for the account and the password that they were issued for."""

from uuid import UUID

import pytest

from authsvc.core.accounts.registration_tokens import RegistrationTokens
from authsvc.core.lib import base64url
from authsvc.core.lib.sealing import Keyring
from authsvc.models.ids import UserId
from authsvc.store.users import Credential
from tests.support.accounts import key
from tests.support.clock import FakeClock

ADA, BOB = UserId(UUID(int=1)), UserId(UUID(int=2))
MINE = Credential(ADA, "hash", "p1")


def tokens(clock: FakeClock, *keys: str) -> RegistrationTokens:
    return RegistrationTokens(Keyring([key(name) for name in keys or ("k1",)]), clock)


def test_token_shows_who_set_password(clock: FakeClock) -> None:
    token = tokens(clock).issue(ADA, "hash")
    assert token.startswith("as1_")
    assert tokens(clock).show_owner(token, MINE)


@pytest.mark.parametrize(
    "credential",
    [
        None,
        Credential(ADA, None, None),
        Credential(ADA, "", None),
        Credential(ADA, "another hash", "p1"),
        Credential(BOB, "hash", "p1"),
    ],
)
def test_token_shows_nothing_about_others(clock: FakeClock, credential: Credential | None) -> None:
    assert not tokens(clock).show_owner(tokens(clock).issue(ADA, "hash"), credential)


def test_token_without_password_counts_for_no_account(clock: FakeClock) -> None:
    token = tokens(clock).issue(ADA, "")
    assert not tokens(clock).show_owner(token, Credential(ADA, None, None))
    assert not tokens(clock).show_owner(token, None)


def test_every_altered_byte_is_noticed(clock: FakeClock) -> None:
    token = tokens(clock).issue(ADA, "hash")
    raw = base64url.decode(token.removeprefix("as1_"))
    for place in range(len(raw)):
        altered = bytearray(raw)
        altered[place] ^= 1
        assert not tokens(clock).show_owner("as1_" + base64url.encode(bytes(altered)), MINE)


@pytest.mark.parametrize("change", ["", "as1_", "ar1_{}", "{}A", "as1_!{}", "{}=", "\ud800"])
def test_malformed_token_is_rejected(clock: FakeClock, change: str) -> None:
    token = tokens(clock).issue(ADA, "hash")
    assert not tokens(clock).show_owner(change.format(token[4:]), MINE)
    assert not tokens(clock).show_owner("as1_" + "!" * len(token[4:]), MINE)


def test_token_under_older_key_counts_while_in_keyring(clock: FakeClock) -> None:
    token = tokens(clock, "k1").issue(ADA, "hash")
    assert tokens(clock, "k2", "k1").show_owner(token, MINE)
    assert not tokens(clock, "k2").show_owner(token, MINE)
