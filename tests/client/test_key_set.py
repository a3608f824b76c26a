"""Published keys: which are trusted, and when they are fetched again."""

import json
import threading
from typing import Any

import pytest

from authsvc.client.key_set import KeySet
from authsvc.core.signing import jwk

HOUR = 3600.0
DAY = 24 * HOUR
MESSAGE = b"message"
KEYS = {name: jwk.generate(name) for name in ("ES256", "EdDSA", "RS256")}
PUBLIC: dict[str, Any] = {name: key.public_jwk for name, key in KEYS.items()}


def jwks(*members: object) -> str:
    return json.dumps({"keys": members})


def key_set(*members: object, now: float = 100.0) -> KeySet:
    keys = KeySet()
    keys.begin(now)
    keys.install(jwks(*members), HOUR, now)
    return keys


@pytest.mark.parametrize("algorithm", KEYS)
def test_published_key_verifies_what_its_key_signed(algorithm: str) -> None:
    key = KEYS[algorithm]
    found = key_set(PUBLIC[algorithm]).find(key.key_id)
    assert found is not None
    assert found.algorithm == algorithm
    signature = key.sign(MESSAGE)
    assert found.verify(MESSAGE, signature)
    assert not found.verify(MESSAGE + b".", signature)
    for wrong in (b"", signature[:-1], signature + b"\0", bytes(len(signature)), b"\xff" * 64):
        assert not found.verify(MESSAGE, wrong)


@pytest.mark.parametrize(
    "change",
    [
        {"alg": "HS256"},
        {"alg": "none"},
        {"alg": None},
        {"alg": "RS256"},
        {"alg": ["ES256"]},
        {"kty": "oct", "k": "AAAA"},
        {"kty": "OKP"},
        {"crv": "P-384"},
        {"crv": None},
        {"use": "enc"},
        {"kid": 5},
        {"kid": None},
        {"x": "AAAA"},
        {"x": None},
        {"x": 5},
        {"y": "A" * 43},
    ],
)
def test_unusable_member_is_left_out_and_the_others_stay(change: dict[str, object]) -> None:
    keys = key_set(PUBLIC["ES256"] | change, PUBLIC["EdDSA"], None, 5, [])
    assert keys.find(KEYS["ES256"].key_id) is None
    assert keys.find(KEYS["EdDSA"].key_id) is not None


def test_short_rsa_key_is_left_out() -> None:
    short = PUBLIC["RS256"] | {"n": PUBLIC["RS256"]["n"][:171]}
    assert key_set(short).find(KEYS["RS256"].key_id) is None


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"keys":{}}', '{"keys":5}', "x"])
def test_other_texts_leave_the_keys_as_they_are(text: str) -> None:
    keys = key_set(PUBLIC["ES256"])
    with pytest.raises(ValueError, match=r"."):
        keys.install(text, HOUR, 200.0)
    assert keys.find(KEYS["ES256"].key_id) is not None
    assert keys.is_usable(100.0 + HOUR)


def test_same_key_stays_the_same_object_and_dropped_keys_go() -> None:
    keys = key_set(PUBLIC["ES256"], PUBLIC["RS256"])
    found = keys.find(KEYS["ES256"].key_id)
    keys.install(jwks(PUBLIC["ES256"], PUBLIC["EdDSA"]), HOUR, 200.0)
    assert keys.find(KEYS["ES256"].key_id) is found
    assert keys.find(KEYS["RS256"].key_id) is None


def test_outdated_answer_does_not_bring_a_revoked_key_back() -> None:
    keys = key_set(PUBLIC["ES256"], PUBLIC["EdDSA"])
    key_id = KEYS["ES256"].key_id
    keys.revoke(key_id, 1000.0)
    assert keys.find(key_id) is None
    assert keys.is_revoked(key_id)
    keys.install(jwks(PUBLIC["ES256"], PUBLIC["EdDSA"]), HOUR, 200.0)
    assert keys.find(key_id) is None
    assert keys.find(KEYS["EdDSA"].key_id) is not None


def test_revocation_known_before_the_keys_counts() -> None:
    keys = KeySet()
    keys.revoke(KEYS["ES256"].key_id, 1000.0)
    keys.install(jwks(PUBLIC["ES256"]), HOUR, 200.0)
    assert keys.find(KEYS["ES256"].key_id) is None


def test_revocation_of_a_key_is_kept_until_its_last_token_has_expired() -> None:
    keys = KeySet()
    keys.revoke("one", 1000.0)
    keys.revoke("one", 500.0)
    keys.revoke("other", 2000.0)
    keys.sweep(999.0)
    assert keys.is_revoked("one")
    keys.sweep(1000.0)
    assert not keys.is_revoked("one")
    assert keys.is_revoked("other")


def test_keys_serve_a_day_beyond_their_expiry() -> None:
    keys = KeySet()
    assert not keys.is_usable(100.0)
    keys = key_set(PUBLIC["ES256"], now=100.0)
    assert keys.is_usable(100.0 + HOUR + DAY - 1)
    assert not keys.is_usable(100.0 + HOUR + DAY)


@pytest.mark.parametrize(("seconds", "due"), [(-1e9, 5.0), (0.0, 5.0), (60.0, 60.0), (1e9, HOUR)])
def test_times_of_the_service_are_taken_within_bounds(seconds: float, due: float) -> None:
    assert KeySet().install(jwks(), seconds, 100.0) == 100.0 + due


def test_unknown_ids_cost_one_fetch_in_two_seconds() -> None:
    keys = key_set(PUBLIC["ES256"], now=100.0)
    assert not keys.may_fetch(101.9)
    assert not keys.may_exist(101.9)
    assert keys.may_fetch(102.0)
    assert keys.may_exist(102.0)
    keys.begin(102.0)
    assert not keys.may_fetch(102.1)
    # As long as that fetch has not ended, nothing is known of the id.
    assert keys.may_exist(102.1)
    assert keys.may_exist(103.9)
    assert keys.may_fetch(104.0)


def test_key_revoked_while_others_are_installed_stays_out() -> None:
    keys = key_set(PUBLIC["ES256"])
    key_id = KEYS["ES256"].key_id
    revoking = threading.Thread(target=keys.revoke, args=(key_id, 1000.0))

    class Looked(dict[str, float]):
        """The revoked keys: another thread adds one as soon as they have been looked at."""

        def __contains__(self, key: object) -> bool:
            found = super().__contains__(key)
            revoking.start()
            revoking.join(0.1)
            return found

    keys._revoked = Looked()
    keys.install(jwks(PUBLIC["ES256"]), HOUR, 100.0)
    revoking.join()
    assert keys.find(key_id) is None
