"""Passkey responses that break careless parsers are rejected without an internal error."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authsvc.core.factors.relying_party import parse_assertion
from authsvc.dev.authenticator import Authenticator, decode, encode
from tests.support.ceremonies import (
    CHALLENGE,
    PARTY,
    assertions,
    creation_options,
    is_signed,
    is_taken,
    with_attestation,
    with_key,
)
from tests.support.passkeys import ORIGIN

pytestmark = pytest.mark.slow

MAX_JSON = 16_384
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=20,
)
BYTES = st.binary(max_size=200) | st.recursive(
    st.none() | st.integers() | st.binary(max_size=40) | st.text(max_size=9) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers(-9, 9) | st.text(max_size=9), inner, max_size=5)
        | st.builds(cbor2.CBORTag, st.integers(0, 300), inner)
    ),
    max_leaves=12,
).map(cbor2.dumps)
FIELDS = (
    *("id", "rawId", "type", "response", "authenticatorAttachment"),
    *("response.clientDataJSON", "response.authenticatorData", "response.signature"),
    *("response.userHandle", "response.attestationObject", "response.transports"),
)


def _put(credential: dict[str, Any], field: str, value: Any) -> None:
    *outer, name = field.split(".")
    (credential[outer[0]] if outer else credential)[name] = value


@settings(max_examples=200)
@given(
    field=st.sampled_from(FIELDS),
    value=JSON | BYTES.map(encode) | st.lists(JSON),
    drop=st.booleans(),
)
def test_malformed_fields_are_rejected_without_error(field: str, value: Any, drop: bool) -> None:
    assertion, public_key = assertions()
    created = Authenticator(ORIGIN).create(creation_options())
    for credential in (assertion, created):
        before = json.dumps(credential)
        _put(credential, field, value)
        if drop:
            *outer, name = field.split(".")
            del (credential[outer[0]] if outer else credential)[name]
        assert is_signed(credential, public_key) in {True, False}
        assert is_taken(credential) in {True, False}
        if json.dumps(credential) == before:
            return


@settings(max_examples=200)
@given(
    client_data=JSON
    | st.dictionaries(
        st.sampled_from(["type", "challenge", "origin", "crossOrigin", "tokenBinding"]), JSON
    )
)
def test_malformed_client_data_is_rejected_without_error(client_data: Any) -> None:
    said = encode(json.dumps(client_data).encode("utf-8", "surrogatepass"))
    assertion, public_key = assertions()
    created = Authenticator(ORIGIN).create(creation_options())
    for credential in (assertion, created):
        _put(credential, "response.clientDataJSON", said)
        assert not is_signed(credential, public_key)
        assert not is_taken(credential)


@settings(max_examples=200)
@given(
    raw=BYTES,
    key=st.recursive(
        st.integers(-300, 300)
        | st.binary(max_size=40)
        | st.none()
        | st.floats()
        | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.integers(-4, 4), inner, max_size=6)
        ),
    ),
)
def test_malformed_authenticator_data_is_rejected_without_error(raw: bytes, key: Any) -> None:
    assertion, public_key = assertions()
    data = decode(assertion["response"]["authenticatorData"])
    for flags in (0x05, 0x45, 0xC5, 0x85):
        changed = data[:32] + bytes([flags]) + data[33:37] + raw
        _put(assertion, "response.authenticatorData", encode(changed))
        assert is_signed(assertion, public_key) is (changed == data)
    assert not is_signed(assertion, raw)
    assert not is_signed(assertion, cbor2.dumps(key))
    assert not is_taken(with_key(key))
    assert not is_taken(with_attestation(lambda found: found.update(authData=raw)))
    assert is_taken(with_attestation(lambda found: found.update(attStmt=key))) in {True, False}


DEEP = {
    "lists": "[" * MAX_JSON,
    "objects": ('{"id":' * MAX_JSON)[:MAX_JSON],
    "number": "1" * MAX_JSON,
    "text": '"' + "x" * (MAX_JSON - 2) + '"',
    "escapes": '"' + "\\ud800" * 2_000 + '"',
    "NaN": "NaN",
    "infinity": "-Infinity",
    "exponent": "1e999999999",
    "not closed": '{"id": "',
    "twice": '{"id": "a", "id": "b"}',
    "no JSON": "\ufeff{}",
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_or_long_json_is_rejected(name: str) -> None:
    assert parse_assertion(DEEP[name]) is None
    assert PARTY.check_attestation(DEEP[name], CHALLENGE) is None
    # Also as client data, and as CBOR.
    assertion, public_key = assertions()
    _put(assertion, "response.clientDataJSON", encode(DEEP[name].encode("utf-8", "surrogatepass")))
    assert not is_signed(assertion, public_key)


@pytest.mark.parametrize("raw", [b"\x81", b"\xc1", b"\xa1\x01", b"\xd8\x1c\x81", b"\xd8\x23\x61("])
def test_deep_cbor_is_rejected(raw: bytes) -> None:
    credential = Authenticator(ORIGIN).create(creation_options())
    for deep in (raw * 3_000, raw * 3_000 + b"\x01"):
        _put(credential, "response.attestationObject", encode(deep))
        assert not is_taken(credential)


def _costly(name: str) -> bytes:
    """Return extensions with a pattern that takes seconds to compile, once for each name."""
    return cbor2.dumps({"x": cbor2.CBORTag(35, f"(?i){name}" + "[\x01-\U0010ffffa]" * 600)})


@contextmanager
def _soon() -> Iterator[None]:
    before = time.thread_time()
    yield
    assert time.thread_time() - before < 0.5


def test_no_regular_expression_of_a_client_is_compiled() -> None:
    statement = cbor2.dumps({"fmt": "packed", "authData": b""})
    statement = b"\xa3" + statement[1:] + cbor2.dumps("attStmt") + _costly("statement")
    credential = Authenticator(ORIGIN).create(creation_options())
    _put(credential, "response.attestationObject", encode(statement))
    with _soon():
        assert not is_taken(credential)
        assert not is_taken(with_attestation(_append_extensions))


def _append_extensions(attestation: dict[str, Any]) -> None:
    data = attestation["authData"]
    attestation["authData"] = data[:32] + bytes([data[32] | 0x80]) + data[33:] + _costly("key")


@pytest.mark.parametrize(
    "key",
    [
        b"",
        # A float, which is longer once it is encoded again: the extensions begin in the string.
        b"\xf9\x00\x00" + b"\x40\x40\x40" + b"\x59%c%c",
    ],
)
def test_no_regular_expression_of_an_assertion_is_compiled(key: bytes) -> None:
    assertion, public_key = assertions()
    data = decode(assertion["response"]["authenticatorData"])
    costly = _costly(f"assertion{key.hex()}")
    size = len(costly)
    hidden = key and key % (size >> 8, size & 255)
    credential = bytes(16) + b"\0\0" if key else b""
    flags = bytes([0xC5 if key else 0x85])
    changed = data[:32] + flags + data[33:37] + credential + hidden + costly
    _put(assertion, "response.authenticatorData", encode(changed))
    with _soon():
        assert not is_signed(assertion, public_key)
