"""The format of a session's secrets."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.sessions.secrets import (
    digest,
    is_csrf_token,
    is_session_token,
    new_csrf_token,
    new_session_token,
)


def test_every_secret_is_unique() -> None:
    for make, length in ((new_session_token, 52), (new_csrf_token, 47)):
        tokens = {make() for _ in range(1_000)}
        assert len(tokens) == 1_000
        assert {len(token) for token in tokens} == {length}


def test_each_kind_has_its_own_prefix() -> None:
    assert new_session_token().startswith("as1_")
    assert new_csrf_token().startswith("ac1_")
    assert is_session_token(new_session_token())
    assert not is_session_token(new_csrf_token())


def test_token_with_one_changed_character_is_invalid() -> None:
    token = new_session_token()
    for position in range(len(token)):
        for character in string.ascii_letters + string.digits + "-_+/=\n":
            changed = token[:position] + character + token[position + 1 :]
            assert is_session_token(changed) is (changed == token)


@pytest.mark.parametrize("change", ["prefix", "padding", "newline", "cut", "longer", "upper"])
def test_token_in_another_spelling_is_invalid(change: str) -> None:
    token = new_session_token()
    text = {
        "prefix": token[4:],
        "padding": f"{token}=",
        "newline": f"{token}\n",
        "cut": token[:-1],
        "longer": f"{token}AAAA",
        "upper": token.replace("as1_", "AS1_"),
    }[change]
    assert not is_session_token(text)


@given(st.one_of(st.text(), st.text(min_size=48, max_size=48).map("as1_".__add__)))
def test_garbage_is_invalid_and_raises_nothing(text: str) -> None:
    assert not is_session_token(text)
    assert not is_csrf_token(text, digest(new_csrf_token()))


def test_lone_surrogate_is_invalid() -> None:
    text = "as1_" + "\ud800" * 48
    assert not is_session_token(text)
    assert not is_csrf_token(text, digest("other"))
