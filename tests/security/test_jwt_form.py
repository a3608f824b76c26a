"""The form of access tokens: only one spelling is accepted, and no text causes an error."""

import base64
import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authsvc.core.lib import base64url
from authsvc.core.sessions.refresh_tokens import RefreshTokenCodec
from authsvc.core.sessions.secrets import new_session_token
from authsvc.models.tokens import Claims, InactiveReason
from tests.support.forging import CLAIMS, CLOCK, World
from tests.support.tokens import make_session

MALFORMED = InactiveReason.MALFORMED
SIGNATURE_INVALID = InactiveReason.SIGNATURE_INVALID


# One spelling only


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    "member", [b'"alg":"none"', b'"alg":"ES256"', b'"typ":"at+jwt"', b'"kid":"x"']
)
def test_duplicate_header_member_is_rejected(world: World, member: bytes) -> None:
    raw = _json(world.header)
    assert world.verify(world.forge(header=raw[:-1] + b"," + member + b"}")) is MALFORMED
    assert world.verify(world.forge(header=b"{" + member + b"," + raw[1:])) is MALFORMED


@pytest.mark.parametrize(
    "member", [b'"exp":9999999999', b'"sub":"x"', b'"e\\u0078p":9999999999', b'"x":{"a":1,"a":2}']
)
def test_duplicate_claim_is_rejected(world: World, member: bytes) -> None:
    raw = _json(world.payload)
    assert world.verify(world.forge(payload=raw[:-1] + b"," + member + b"}")) is MALFORMED
    assert world.verify(world.forge(payload=b"{" + member + b"," + raw[1:])) is MALFORMED


@pytest.mark.parametrize(
    "twist",
    [
        lambda raw: b"[" + raw + b"]",
        lambda raw: json.dumps(raw.decode()).encode(),
        lambda _: b"null",
        lambda _: b"1",
        lambda _: b"{}",
        lambda raw: raw + b"x",
        lambda raw: raw + raw,
        lambda raw: raw + b"\0",
        lambda raw: raw[:-1] + b",}",
        lambda raw: raw[:-1],
        lambda raw: b"\xef\xbb\xbf" + raw,
        lambda raw: raw.decode().encode("utf-16"),
        lambda raw: raw.decode().encode("utf-32-le"),
        lambda raw: raw[:-1] + b',"x":"\xff"}',
        lambda raw: raw[:-1] + b',"x":"\xed\xa0\x80"}',
        lambda raw: raw[:-1] + b',"x":NaN}',
        lambda raw: raw[:-1] + b',"x":Infinity}',
        lambda raw: raw[:-1] + b',"x":-Infinity}',
        lambda raw: raw[:-1] + b',"x":' + b"9" * 5000 + b"}",
        lambda raw: raw[:-1] + b',"x":' + b"[" * 5000 + b"}",
        lambda raw: raw.replace(b'"', b"'"),
        lambda raw: b"/* */" + raw,
    ],
)
@pytest.mark.parametrize("part", ["header", "payload"])
def test_non_standard_json_is_rejected(
    world: World, part: str, twist: Callable[[bytes], bytes]
) -> None:
    raw = twist(_json(getattr(world, part)))
    assert world.verify(world.forge(**{part: raw})) is MALFORMED


def test_deep_nesting_raises_no_error(world: World) -> None:
    # The depth allowed depends on the version of Python; an unknown claim does no harm.
    nested = b',"x":' + b"[" * 2300 + b"]" * 2300 + b"}"
    outcome = world.verify(world.forge(payload=_json(world.payload)[:-1] + nested))
    assert outcome is MALFORMED or isinstance(outcome, Claims)


@pytest.mark.parametrize("claim", ["iss", "jti", "aud", "scope"])
def test_lone_surrogate_is_rejected(world: World, claim: str) -> None:
    assert world.verify(world.with_payload(**{claim: "\ud800"})) is MALFORMED


@pytest.mark.parametrize("claim", ["roles", "permissions", "amr"])
def test_lone_surrogate_in_list_is_rejected(world: World, claim: str) -> None:
    assert world.verify(world.with_payload(**{claim: ["\udfff"]})) is MALFORMED


def test_any_other_text_is_preserved(world: World) -> None:
    claims = world.verify(world.with_payload(roles=["rôle", "役割", "🔑", "a\0b"]))
    assert isinstance(claims, Claims)
    assert claims.roles == ("rôle", "役割", "🔑", "a\0b")


def test_padded_parts_are_rejected(any_world: World) -> None:
    parts = any_world.token.split(".")
    for index, part in enumerate(parts):
        for padding in ("=", "==", "===", "=" * (-len(part) % 4 or 4)):
            twisted = [*parts[:index], part + padding, *parts[index + 1 :]]
            assert any_world.verify(".".join(twisted)) is MALFORMED


def test_trailing_bits_are_rejected(any_world: World) -> None:
    parts = any_world.token.split(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twisted = 0
    for index, part in enumerate(parts):
        for other in alphabet:
            changed = part[:-1] + other
            same_bytes = base64.urlsafe_b64decode(changed + "==") == base64.urlsafe_b64decode(
                part + "=="
            )
            if same_bytes and changed != part:
                twisted += 1
                whole = ".".join([*parts[:index], changed, *parts[index + 1 :]])
                assert any_world.verify(whole) is MALFORMED
    assert twisted


@pytest.mark.parametrize(
    "noise", ["\n", "\r\n", " ", "\t", "\0", "é", "\u2028", "+", "/", "%", "~"]
)
def test_inserted_characters_are_rejected(world: World, noise: str) -> None:
    for position in (0, 10, len(world.token) // 2, len(world.token) - 10, len(world.token)):
        twisted = world.token[:position] + noise + world.token[position:]
        assert world.verify(twisted) is MALFORMED


def test_standard_base64_alphabet_is_rejected(world: World) -> None:
    # A payload whose base64 contains both characters in which the alphabets differ.
    token = world.forge(
        payload=json.dumps(world.payload | {"x": "ÿ>ÿ?ÿ>~~?"}, ensure_ascii=False).encode()
    )
    signing_input = token[: token.rindex(".")].replace("-", "+").replace("_", "/")
    assert set("+/") & set(signing_input)
    assert world.verify(world.signed(signing_input)) is MALFORMED
    assert isinstance(world.verify(token), Claims)


def test_wrong_number_of_parts_is_rejected(world: World) -> None:
    header, payload, signature = world.token.split(".")
    for parts in (
        [],
        [""],
        [header],
        [header, payload],
        [header, "", signature],
        ["", payload, signature],
        [header, payload, ""],
        [header, payload, signature, ""],
        ["", header, payload, signature],
        [header, payload, signature, signature],
        [header, payload, "", "", signature],
        ["", "", ""],
        ["", "", "", "", ""],
    ):
        assert world.verify(".".join(parts)) is MALFORMED


def test_json_serialization_is_rejected(world: World) -> None:
    header, payload, signature = world.token.split(".")
    flattened = json.dumps({"protected": header, "payload": payload, "signature": signature})
    assert world.verify(flattened) is MALFORMED


def test_length_is_limited_to_8_kib(world: World) -> None:
    lengths = []
    for padding in range(5_550, 5_700):
        token = world.with_payload(x="x" * padding)
        accepted = isinstance(world.verify(token), Claims)
        assert accepted is (len(token) <= 8192)
        lengths.append(len(token))
    assert min(lengths) <= 8192 < max(lengths)
    assert world.verify(world.with_payload(x="x" * 6_500)) is MALFORMED
    assert world.verify("x" * 10_000_000) is MALFORMED
    assert world.verify("." * 8192) is MALFORMED


def test_truncated_token_is_rejected(any_world: World) -> None:
    token = any_world.token
    for length in range(len(token)):
        assert any_world.verify(token[:length]) in {MALFORMED, SIGNATURE_INVALID}
        assert any_world.verify(token[length + 1 :]) in {MALFORMED, SIGNATURE_INVALID}


def test_token_changed_anywhere_is_rejected(any_world: World) -> None:
    token = any_world.token
    for position, character in enumerate(token):
        other = "A" if character != "A" else "B"
        changed = token[:position] + other + token[position + 1 :]
        assert any_world.verify(changed) in {MALFORMED, SIGNATURE_INVALID}


def test_parts_of_two_tokens_do_not_mix(any_world: World) -> None:
    other = any_world.with_payload(sub="01900000-0000-7000-8000-00000000000f")
    header, payload, signature = any_world.token.split(".")
    other_header, other_payload, other_signature = other.split(".")
    for parts in (
        (header, other_payload, signature),
        (header, payload, other_signature),
        (other_header, payload, other_signature),
    ):
        assert any_world.verify(".".join(parts)) is SIGNATURE_INVALID


def test_degenerate_signatures_are_rejected(any_world: World) -> None:
    signing_input = any_world.token[: any_world.token.rindex(".")]
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    for signature in (
        b"\0" * 64,
        b"\xff" * 64,
        b"\0" * 256,
        order.to_bytes(32, "big") * 2,
        bytes(31) + b"\1" + bytes(31) + b"\1",
        # r = 0, s = 0 in DER.
        bytes.fromhex("3006020100020100"),
        b"\0",
    ):
        token = f"{signing_input}.{base64url.encode(signature)}"
        assert any_world.verify(token) is SIGNATURE_INVALID


def test_tokens_of_other_kinds_are_rejected(world: World) -> None:
    codec = RefreshTokenCodec([bytes(32)])
    assert world.verify(codec.encode(make_session(CLOCK).session_id, 1)) is MALFORMED
    assert world.verify(new_session_token()) is MALFORMED


# Arbitrary input


@given(st.text())
def test_arbitrary_text_is_rejected(world: World, text: str) -> None:
    assert world.verify(text) is MALFORMED


@given(st.lists(st.binary(max_size=200), min_size=3, max_size=3))
def test_arbitrary_three_parts_are_rejected(world: World, parts: list[bytes]) -> None:
    assert world.verify(".".join(map(base64url.encode, parts))) is MALFORMED


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)


@given(claim=st.sampled_from(CLAIMS), value=_JSON)
def test_arbitrary_claim_value_raises_no_error(world: World, claim: str, value: object) -> None:
    outcome = world.verify(world.with_payload(**{claim: value}))
    assert isinstance(outcome, Claims | InactiveReason)
    assert outcome is not SIGNATURE_INVALID


@given(member=st.sampled_from(["typ", "alg", "kid"]), value=_JSON)
def test_arbitrary_header_member_value_is_rejected(
    world: World, member: str, value: object
) -> None:
    outcome = world.verify(world.with_header(**{member: value}))
    assert outcome in {MALFORMED, SIGNATURE_INVALID}


@settings(max_examples=300)
@given(data=st.data())
def test_any_mutation_is_rejected(any_world: World, data: st.DataObject) -> None:
    token = any_world.token
    start = data.draw(st.integers(0, len(token)))
    end = data.draw(st.integers(start, min(len(token), start + 5)))
    inserted = data.draw(st.text(max_size=5) | st.text("abAB01-_.=", max_size=5))
    mutant = token[:start] + inserted + token[end:]
    if mutant != token:
        assert any_world.verify(mutant) in {MALFORMED, SIGNATURE_INVALID}
