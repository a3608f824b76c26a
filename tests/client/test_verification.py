"""What is checked again for a token that was seen before, and what can't be told."""

import json
import time
from uuid import uuid4

import pytest

from authsvc.client.errors import NotDecidable, TokenRejected
from authsvc.client.freshness import elapsed
from authsvc.client.knowledge import Knowledge
from authsvc.client.verification import Expectations, KeyUnknown, Verification
from authsvc.core.lib import base64url
from authsvc.core.signing import jwk
from authsvc.core.signing.jwk import SigningKey
from authsvc.v1.session_service_pb2 import Revocation, WatchRevocationsResponse
from tests.support.tokens import signed

NOW = 1_800_000_000
KEY, STRANGER = jwk.generate("ES256"), jwk.generate("ES256")
SYMMETRIC = jwk.generate("HS256")


class World:
    """A verification with its own clock."""

    def __init__(self, cache_size: int = 100) -> None:
        self.now = float(NOW)
        self.asked_for_keys = 0
        self.knowledge = Knowledge()
        self.knowledge.known_until.open(elapsed())
        self.verification = Verification(
            Expectations(issuer="https://issuer", audience="shop", clock=lambda: self.now),
            self.knowledge,
            cache_size,
        )
        self.verification.on_unknown_key = self._count
        self.fetch(KEY)
        self.receive()

    def _count(self) -> None:
        self.asked_for_keys += 1

    def fetch(self, *keys: SigningKey, seconds_ago: float = 100.0) -> None:
        """Install these keys, as if they had been fetched so long ago."""
        began = elapsed() - seconds_ago
        self.knowledge.keys.begin(began)
        jwks = json.dumps({"keys": [key.public_jwk for key in keys]})
        self.knowledge.keys.install(jwks, 3600, began)

    def receive(self, *revocations: Revocation) -> None:
        response = WatchRevocationsResponse(revocations=revocations, complete=True)
        self.knowledge.receive(response, elapsed())

    def says(self, token: str, audience: str = "shop", max_staleness: float = 1e9) -> str:
        try:
            self.verification.judge(token, audience, (), "", None, max_staleness)
        except (TokenRejected, NotDecidable) as refused:
            return refused.reason
        return ""


@pytest.fixture
def world() -> World:
    return World()


def token(key: SigningKey = KEY, **changes: object) -> str:
    claims: dict[str, object] = {
        "iss": "https://issuer",
        "aud": ["shop", "cart"],
        "exp": NOW + 60,
        "iat": NOW,
        "nbf": NOW,
        "jti": "id",
        "sub": str(uuid4()),
        "sid": str(uuid4()),
        "roles": [],
        "permissions": [],
        "scope": "",
        "amr": ["pwd"],
        "auth_time": NOW,
    }
    return signed(key, "at+jwt", claims | changes)


def test_seen_token_still_expires_to_the_moment(world: World) -> None:
    text = token()
    for now, reason in (
        (NOW, ""),
        (NOW + 59.999, ""),
        (NOW + 60, "EXPIRED"),
        (NOW - 5, ""),
        (NOW - 5.001, "NOT_YET_VALID"),
    ):
        world.now = now
        assert world.says(text) == reason
    assert world.verification.counts["examined"] == 1


def test_seen_token_is_still_held_to_audience_and_revocations(world: World) -> None:
    session, user = str(uuid4()), str(uuid4())
    first, second = token(sid=session), token(sub=user)
    assert (world.says(first), world.says(second)) == ("", "")
    assert world.says(first, audience="cart") == ""
    assert world.says(first, audience="other") == "AUDIENCE_MISMATCH"
    ended = Revocation(session_id=session)
    lost = Revocation(user_id=user)
    for revocation in (ended, lost):
        revocation.revoke_time.FromSeconds(NOW)
        revocation.expire_time.FromSeconds(2 * NOW)
    world.receive(ended, lost)
    assert (world.says(first), world.says(second)) == ("SESSION_REVOKED", "TOKEN_OUTDATED")
    assert world.says(token(sub=user, iat=NOW + 1)) == ""
    assert world.verification.counts["examined"] == 3


def test_seen_token_ends_with_its_key(world: World) -> None:
    text = token()
    assert world.says(text) == ""
    world.knowledge.keys.revoke(KEY.key_id, 2.0 * NOW)
    assert world.says(text) == "SIGNATURE_INVALID"
    assert world.asked_for_keys == 0


def test_another_issuer_is_refused(world: World) -> None:
    assert world.says(token(iss="https://other")) == "ISSUER_MISMATCH"


def test_unknown_key_asks_for_keys_unless_they_were_just_fetched(world: World) -> None:
    text = token(STRANGER)
    with pytest.raises(KeyUnknown):
        world.verification.judge(text, "shop", (), "", None, 1e9)
    assert world.asked_for_keys == 1
    world.fetch(KEY, seconds_ago=1.0)
    assert world.says(text) == "SIGNATURE_INVALID"
    assert world.asked_for_keys == 1
    world.fetch(KEY, STRANGER)
    assert world.says(text) == ""


def test_symmetric_signature_is_left_to_the_service(world: World) -> None:
    world.fetch(KEY, seconds_ago=1.0)
    with pytest.raises(NotDecidable) as caught:
        world.verification.judge(token(SYMMETRIC), "shop", (), "", None, 1e9)
    assert not isinstance(caught.value, KeyUnknown)


def test_symmetric_signature_is_of_an_unknown_key_where_there_are_no_secret_ones(
    world: World,
) -> None:
    jwks = json.dumps({"keys": [KEY.public_jwk]})
    for seconds_ago, error in ((100.0, KeyUnknown), (1.0, TokenRejected)):
        began = elapsed() - seconds_ago
        world.knowledge.keys.begin(began)
        world.knowledge.keys.install(jwks, 3600, began, are_all=True)
        with pytest.raises(error):
            world.verification.judge(token(SYMMETRIC), "shop", (), "", None, 1e9)


def test_nothing_is_accepted_with_keys_of_long_ago(world: World) -> None:
    text = token()
    assert world.says(text) == ""
    world.fetch(KEY, seconds_ago=3600 + 86_400 + 1)
    assert world.says(text) == "UNUSABLE"
    assert world.verification.state.status == "unusable"
    assert world.says(token(STRANGER)) == "UNUSABLE"


def test_stale_knowledge_still_rejects_what_is_wrong(world: World) -> None:
    text = token()
    assert world.says(text, max_staleness=-1.0) == "UNUSABLE"
    assert world.says("x.y.z", max_staleness=-1.0) == "MALFORMED"
    assert world.says(text, "other", max_staleness=-1.0) == "AUDIENCE_MISMATCH"


def test_cache_is_bounded_and_keeps_what_is_used() -> None:
    world = World(cache_size=10)
    used = token()
    assert world.says(used) == ""
    for _ in range(100):
        assert world.says(token()) == ""
        assert world.says(used) == ""
    seen = world.verification._seen
    assert len(seen._young) + len(seen._old) <= 20
    assert world.verification.counts["examined"] == 101


def test_forged_tokens_are_not_cached(world: World) -> None:
    text = token()
    head, body, _ = text.split(".")
    forged = f"{head}.{body}.{token().rpartition('.')[2]}"
    assert world.says(forged) == "SIGNATURE_INVALID"
    assert world.says(forged) == "SIGNATURE_INVALID"
    assert not world.verification._seen._young
    assert not world.verification._headers


def test_remembered_headers_are_bounded(world: World) -> None:
    body = token().split(".")[1]
    for number in range(200):
        header = json.dumps({"typ": "at+jwt", "alg": "ES256", "kid": KEY.key_id})
        text = f"{_encoded(header + ' ' * number)}.{body}"
        assert world.says(f"{text}.{_encoded(KEY.sign(text.encode()))}") == ""
    assert len(world.verification._headers) <= 64


def _encoded(content: str | bytes) -> str:
    return base64url.encode(content.encode() if isinstance(content, str) else content)


def test_child_of_a_fork_fetches_no_keys(world: World) -> None:
    world.knowledge.lose()
    with pytest.raises(NotDecidable) as caught:
        world.verification.judge(token(STRANGER), "shop", (), "", None, 1e9)
    assert not isinstance(caught.value, KeyUnknown)
    assert world.asked_for_keys == 0


def test_clock_that_is_set_back_accepts_nothing_that_was_forgotten(world: World) -> None:
    real = int(time.time())
    ended = str(uuid4())
    old = token(sid=ended, iat=real - 7200, nbf=real - 7200, exp=real - 3600)
    revocation = Revocation(session_id=ended)
    revocation.expire_time.FromSeconds(real - 3540)
    world.now = real - 5000
    world.receive(revocation)
    assert world.says(old) == "SESSION_REVOKED"
    until = WatchRevocationsResponse(complete=True)
    until.known_until_time.FromSeconds(real)
    for _ in range(256):  # all of it is swept
        world.knowledge.receive(until, elapsed())
    assert not len(world.knowledge.revoked)
    assert world.says(old) == "EXPIRED"
    # What has not expired by any clock is not concerned.
    assert world.says(token(iat=real - 5000, nbf=real - 5000, exp=real - 200)) == ""
