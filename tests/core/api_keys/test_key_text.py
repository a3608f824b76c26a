"""The format of API keys: generation, checksum, display prefix and digest."""

import hashlib
import re

import pytest

from authsvc.core.api_keys.key_text import digest, display_prefix, is_api_key, new_api_key


def test_new_keys_are_unique_and_have_documented_form() -> None:
    keys = {new_api_key("authsvc") for _ in range(50)}
    assert len(keys) == 50
    for key in keys:
        assert re.fullmatch(r"authsvc_[0-9A-Za-z]{49}", key)
        assert is_api_key(key)


def test_key_with_any_prefix_is_recognised() -> None:
    assert is_api_key(new_api_key("ab"))
    assert is_api_key(new_api_key("a" + "9" * 15))


@pytest.mark.parametrize("at", [0, 3, 8, 30, -7, -6, -1])
def test_checksum_detects_one_wrong_character(at: int) -> None:
    key = list(new_api_key("authsvc"))
    key[at] = "x" if key[at] != "x" else "y"
    assert not is_api_key("".join(key))


def test_altered_key_text_is_rejected() -> None:
    key = new_api_key("authsvc")
    for text in ("", key[:-1], key[1:], f"{key}A", f"{key}\n", f" {key}", key.upper(), "authsvc_"):
        assert not is_api_key(text)


def test_display_prefix_contains_six_secret_characters() -> None:
    key = new_api_key("authsvc")
    assert display_prefix(key) == key[: len("authsvc_") + 6]


def test_digest_is_sha_256_of_text() -> None:
    key = new_api_key("authsvc")
    assert digest(key) == hashlib.sha256(key.encode()).digest()
