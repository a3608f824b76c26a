"""Sealed values open only unaltered, in their own place, with a key of the keyring."""

import base64
import hashlib
import hmac
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_decrypt
from pydantic import SecretStr

from authsvc.config import KeySettings
from authsvc.core.lib.sealing import Keyring, SealError, read_header
from authsvc.models.sealing import SEALED_COLUMNS, SealAlgorithm, SealHeader

PLACE = {"table": "factors", "column": "secret", "row": "row-1"}
SECRET = b"correct horse battery staple"


def key(key_id: str, secret: bytes | None = None) -> KeySettings:
    secret = secret or hashlib.sha256(key_id.encode()).digest()
    return KeySettings(id=key_id, key=SecretStr(base64.b64encode(secret).decode()))


def ring(*key_ids: str) -> Keyring:
    return Keyring([key(key_id) for key_id in key_ids])


@given(st.binary(max_size=5_000), st.text(), st.text(), st.text())
def test_sealed_value_opens(plaintext: bytes, table: str, column: str, row: str) -> None:
    sealed = ring("k1").seal(plaintext, table=table, column=column, row=row)
    assert ring("k1").open(sealed, table=table, column=column, row=row) == plaintext
    assert len(sealed) == 2 + len("k1") + 12 + len(plaintext) + 16


def test_value_sealed_by_first_release_opens() -> None:
    sealed = bytes.fromhex(
        "0107323032362d313154101be84f853a01ac4c9a7bde77707f5025dfc3dd602738d504729e93570594fa925d6f"
    )
    first = Keyring([key("2026-11", bytes(range(32)))])
    place = {"table": "signing_keys", "column": "sealed_key", "row": "key-1"}
    assert first.open(sealed, **place) == b"a secret"


@pytest.mark.parametrize(
    "other",
    [
        {"table": "identities"},
        {"column": "name"},
        {"row": "row-2"},
        {"table": "factorss", "column": "ecret"},
        {"column": "secre", "row": "trow-1"},
        {"table": "", "column": "factorssecret"},
    ],
)
def test_value_sealed_for_another_place_does_not_open(other: dict[str, str]) -> None:
    sealed = ring("k1").seal(SECRET, **PLACE)
    with pytest.raises(SealError):
        ring("k1").open(sealed, **(PLACE | other))


def test_any_changed_byte_is_detected() -> None:
    sealed = ring("k1").seal(SECRET, **PLACE)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(SealError):
            ring("k1").open(bytes(changed), **PLACE)


def test_truncation_and_extension_are_detected() -> None:
    sealed = ring("k1").seal(SECRET, **PLACE)
    for length in range(len(sealed)):
        with pytest.raises(SealError):
            ring("k1").open(sealed[:length], **PLACE)
    with pytest.raises(SealError):
        ring("k1").open(sealed + b"\0", **PLACE)


@given(st.binary(max_size=100))
def test_junk_is_rejected(junk: bytes) -> None:
    with pytest.raises(SealError):
        ring("k1").open(junk, **PLACE)
    with pytest.raises(SealError):
        ring("k1").open(b"\1\2k1" + junk, **PLACE)


def test_key_id_is_authenticated() -> None:
    same = Keyring([key("k1", b"k" * 32), key("k2", b"k" * 32)])
    sealed = same.seal(SECRET, **PLACE)
    with pytest.raises(SealError):
        same.open(sealed.replace(b"k1", b"k2", 1), **PLACE)


def test_each_seal_uses_a_new_nonce() -> None:
    keyring = ring("k1")
    assert len({keyring.seal(b"", **PLACE)[4:16] for _ in range(1_000)}) == 1_000


def test_older_keys_open_and_newest_seals() -> None:
    old = ring("k1").seal(SECRET, **PLACE)
    rotated = ring("k2", "k1")
    assert rotated.open(old, **PLACE) == SECRET
    assert read_header(old) == ring("k1").newest
    new = rotated.seal(SECRET, **PLACE)
    assert read_header(new) == rotated.newest
    assert new.startswith(rotated.newest_header)
    assert ring("k2").open(new, **PLACE) == SECRET


def test_removed_or_changed_key_opens_nothing() -> None:
    sealed = ring("k1").seal(SECRET, **PLACE)
    with pytest.raises(SealError, match="not in the keyring"):
        ring("k2").open(sealed, **PLACE)
    with pytest.raises(SealError):
        Keyring([key("k1", b"k" * 32)]).open(sealed, **PLACE)


def test_unknown_formats_have_no_header() -> None:
    next_version = b"\3" + ring("k1").seal(SECRET, **PLACE)[1:]
    for unknown in (b"", b"\1", b"\1\2k", b"plain text", next_version):
        assert read_header(unknown) is None
        with pytest.raises(SealError, match="not sealed in a known format"):
            ring("k1").open(unknown, **PLACE)


@pytest.mark.parametrize("algorithm", SealAlgorithm)
def test_values_of_every_algorithm_are_opened(algorithm: SealAlgorithm) -> None:
    sealed = Keyring([key("k1")], algorithm).seal(SECRET, **PLACE)
    assert read_header(sealed) == SealHeader("k1", algorithm)
    for other in SealAlgorithm:
        assert Keyring([key("k2"), key("k1")], other).open(sealed, **PLACE) == SECRET


def test_chacha20_poly1305_is_that_of_rfc_8439() -> None:
    """An independent implementation, libsodium's, opens the value with the documented key."""
    sealed = Keyring([key("k1")], SealAlgorithm.CHACHA20_POLY1305).seal(SECRET, **PLACE)
    extracted = hmac.digest(b"authsvc", key("k1").key_bytes(), "sha256")
    derived = hmac.digest(extracted, b"seal-chacha20-poly1305\1", "sha256")
    header, nonce, ciphertext = sealed[:4], sealed[4:16], sealed[16:]
    parts = [header, *(part.encode() for part in PLACE.values())]
    associated = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    opened = crypto_aead_chacha20poly1305_ietf_decrypt(ciphertext, associated, nonce, derived)
    assert opened == SECRET


def test_algorithm_is_authenticated() -> None:
    keyring = ring("k1")
    for algorithm, other in permutations(SealAlgorithm):
        sealed = bytearray(Keyring([key("k1")], algorithm).seal(SECRET, **PLACE))
        sealed[0] = Keyring([key("k1")], other).newest_header[0]
        with pytest.raises(SealError, match="altered"):
            keyring.open(bytes(sealed), **PLACE)


@pytest.mark.parametrize("algorithm", SealAlgorithm)
def test_value_swapped_between_rows_columns_and_tables_does_not_open(
    algorithm: SealAlgorithm,
) -> None:
    """For every sealed column of the schema: each value opens in its own place only."""
    keyring = Keyring([key("k1")], algorithm)
    rows = ("018f0000-0000-7000-8000-000000000001", "018f0000-0000-7000-8000-000000000002")
    places = [dict(column.place(row)) for column in SEALED_COLUMNS for row in rows]
    places += [
        {"table": one.table, "column": other.column, "row": rows[0]}
        for one in SEALED_COLUMNS
        for other in SEALED_COLUMNS
        if one is not other
    ]
    sealed = [keyring.seal(SECRET, **place) for place in places]
    for at, value in enumerate(sealed):
        for where, place in enumerate(places):
            if at == where:
                assert keyring.open(value, **place) == SECRET
            else:
                with pytest.raises(SealError, match="altered or belongs elsewhere"):
                    keyring.open(value, **place)


def test_empty_keyring_is_rejected() -> None:
    with pytest.raises(ValueError, match="needs a key"):
        Keyring([])


def test_derived_keys_match_rfc_5869_newest_first() -> None:
    def hkdf(secret: bytes, info: bytes) -> bytes:
        extracted = hmac.digest(b"authsvc", secret, "sha256")
        return hmac.digest(extracted, info + b"\1", "sha256")

    secrets = [key(key_id).key_bytes() for key_id in ("k2", "k1")]
    derived = ring("k2", "k1").derive("refresh-token")
    assert derived == [hkdf(secret, b"refresh-token") for secret in secrets]


def test_each_purpose_has_its_own_key() -> None:
    keyring = ring("k1")
    derived = sorted(keyring.derive(purpose)[0] for purpose in ("a", "b", "ab", "refresh-token"))
    assert all(one != other for one, other in pairwise(derived))


@pytest.mark.parametrize("purpose", ["", "seal", "seal-chacha20-poly1305"])
def test_sealing_key_cannot_be_derived(purpose: str) -> None:
    with pytest.raises(ValueError, match="can't derive"):
        ring("k1").derive(purpose)


def test_errors_and_reprs_hide_secrets() -> None:
    keyring = ring("k1")
    sealed = keyring.seal(SECRET, **PLACE)
    with pytest.raises(SealError) as caught:
        keyring.open(sealed + b"\0", **PLACE)
    assert str(caught.value) == "The sealed value was altered or belongs elsewhere."
    assert key("k1").key.get_secret_value() not in f"{keyring!r}"
