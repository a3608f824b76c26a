"""Refresh tokens: encoded tokens decode, and nothing else does."""

import base64
import hmac
import zlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.lib import base64url
from authsvc.core.sessions.refresh_tokens import RefreshTokenCodec
from authsvc.core.sessions.secrets import new_csrf_token, new_session_token
from authsvc.errors import Reason, Unauthenticated
from authsvc.models.ids import SessionId

OLD_KEY, NEW_KEY = bytes(range(32)), bytes(range(32, 64))
SESSION = SessionId(UUID("01900000-0000-7000-8000-000000000002"))
COUNTERS = st.integers(min_value=0, max_value=2**63 - 1)
codec = RefreshTokenCodec([NEW_KEY])


def refused(token: str, by: RefreshTokenCodec = codec) -> bool:
    with pytest.raises(Unauthenticated) as caught:
        by.decode(token)
    return caught.value.reason is Reason.REFRESH_TOKEN_INVALID


def spelled(content: bytes, mac: bytes) -> str:
    """Return a token with a right checksum, whatever its content and its HMAC."""
    signed = content + mac
    return "ar1_" + base64url.encode(signed + zlib.crc32(b"ar1_" + signed).to_bytes(4, "big"))


@given(session_id=st.uuids(), counter=COUNTERS)
def test_encoded_token_decodes(session_id: UUID, counter: int) -> None:
    token = codec.encode(SessionId(session_id), counter)
    assert codec.decode(token) == (session_id, counter)


def test_token_is_header_safe_and_prefixed_with_its_kind() -> None:
    token = codec.encode(SESSION, 1)
    assert token.startswith("ar1_")
    assert len(token) == 64
    assert token.isascii()


def test_tokens_of_a_session_differ_by_their_counter() -> None:
    assert len({codec.encode(SESSION, counter) for counter in range(100)}) == 100


def test_older_keys_are_accepted_and_newest_is_used() -> None:
    both = RefreshTokenCodec([NEW_KEY, OLD_KEY])
    old_token = RefreshTokenCodec([OLD_KEY]).encode(SESSION, 7)
    assert both.decode(old_token) == (SESSION, 7)
    assert codec.decode(both.encode(SESSION, 8)) == (SESSION, 8)


def test_token_under_removed_key_is_rejected() -> None:
    assert refused(RefreshTokenCodec([OLD_KEY]).encode(SESSION, 7))


def test_valid_checksum_does_not_make_forged_token_valid() -> None:
    content = codec.encode(SESSION, 7)
    content_bytes = base64.urlsafe_b64decode(content[4:])[:25]
    assert refused(spelled(content_bytes, bytes(16)))
    assert refused(spelled(content_bytes, b""))


def test_unknown_version_is_rejected_despite_valid_mac() -> None:
    content = bytes([2]) + SESSION.bytes + bytes(8)
    mac = hmac.digest(NEW_KEY, b"ar1_" + content, "sha256")[:16]
    assert refused(spelled(content, mac))
    content = bytes([1]) + content[1:]
    mac = hmac.digest(NEW_KEY, b"ar1_" + content, "sha256")[:16]
    assert codec.decode(spelled(content, mac)) == (SESSION, 0)


def test_checksum_is_verified() -> None:
    token = codec.encode(SESSION, 7)
    raw = base64.urlsafe_b64decode(token[4:])
    assert refused("ar1_" + base64url.encode(raw[:-1] + bytes([raw[-1] ^ 1])))


def test_mac_covers_prefix() -> None:
    content = bytes([1]) + SESSION.bytes + bytes(8)
    assert refused(spelled(content, hmac.digest(NEW_KEY, content, "sha256")[:16]))


def test_every_changed_character_is_detected() -> None:
    token = codec.encode(SESSION, 7)
    for position, original in enumerate(token):
        for other in "A9-_=+/ \n\0é":
            if other != original:
                assert refused(token[:position] + other + token[position + 1 :])


def test_every_truncation_is_detected() -> None:
    token = codec.encode(SESSION, 7)
    for length in range(len(token)):
        assert refused(token[:length])
        assert refused(token[length + 1 :])


@pytest.mark.parametrize("suffix", ["=", "==", "\n", " ", "A", "\0", ".", "AAAA"])
def test_appended_text_is_detected(suffix: str) -> None:
    assert refused(codec.encode(SESSION, 7) + suffix)


def test_tokens_of_other_kinds_are_rejected() -> None:
    token = codec.encode(SESSION, 7)
    assert refused(new_session_token())
    assert refused(new_csrf_token())
    assert refused("as1_" + token[4:])
    assert refused("AR1_" + token[4:])
    assert refused("a.b.c")


@given(st.text(max_size=100))
def test_garbage_is_rejected(text: str) -> None:
    assert refused(text)
    assert refused("ar1_" + text)


@given(st.binary(min_size=45, max_size=45))
def test_well_formed_garbage_is_rejected(raw: bytes) -> None:
    assert refused("ar1_" + base64url.encode(raw))


@pytest.mark.parametrize("keys", [[], [b"short"], [bytes(31)], [NEW_KEY, b""]])
def test_weak_keys_are_rejected(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        RefreshTokenCodec(keys)
