"""The form of API keys."""

import hashlib
import re

import pytest

from authsvc.core.api_keys.key_text import digest, display_prefix, is_api_key, new_api_key


def test_new_keys_have_the_documented_form_and_differ() -> None:
    keys = {new_api_key("authsvc") for _ in range(50)}
    assert len(keys) == 50
    for key in keys:
        assert re.fullmatch(r"authsvc_[0-9A-Za-z]{49}", key)
        assert is_api_key(key)


def test_key_under_any_prefix_is_recognised() -> None:
    assert is_api_key(new_api_key("ab"))
    assert is_api_key(new_api_key("a" + "9" * 15))


@pytest.mark.parametrize("at", [0, 3, 8, 30, -7, -6, -1])
def test_one_wrong_character_is_noticed_by_the_checksum(at: int) -> None:
    key = list(new_api_key("authsvc"))
    key[at] = "x" if key[at] != "x" else "y"
    assert not is_api_key("".join(key))


def test_what_is_cut_or_added_to_is_no_key() -> None:
    key = new_api_key("authsvc")
    for text in ("", key[:-1], key[1:], f"{key}A", f"{key}\n", f" {key}", key.upper(), "authsvc_"):
        assert not is_api_key(text)


def test_prefix_for_display_leaves_the_secret_to_be_guessed() -> None:
    key = new_api_key("authsvc")
    assert display_prefix(key) == key[: len("authsvc_") + 6]


def test_digest_is_the_sha_256_of_the_text() -> None:
    key = new_api_key("authsvc")
    assert digest(key) == hashlib.sha256(key.encode()).digest()
