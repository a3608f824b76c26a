"""Pending logins at external providers: allowed redirects, and that each is used only once."""

import asyncio
import base64
import hashlib
from collections import Counter
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from authsvc.config import BruteForceSettings, RetentionSettings
from authsvc.core.federation.providers import AuthorizationAnswer
from authsvc.core.lib.sealing import Keyring
from authsvc.core.retention.cleanup import Retention
from authsvc.errors import ProviderUnavailable, ServiceError, TooManyAttempts
from tests.support.accounts import CALL, key, unlimited
from tests.support.clock import FakeClock
from tests.support.logins import Replicas
from tests.support.oauth import ADA, CLIENT, REDIRECT, Federated


async def reason(federated: Federated, state: str, code: str = "code") -> str:
    """Complete a login with what a browser brings back; return the outcome."""
    try:
        await federated.login.complete(CALL, state, AuthorizationAnswer(code), CLIENT)
    except ServiceError as error:
        return error.reason.value
    return "OK"


async def pending(federated: Federated) -> int:
    return len(await federated.fetch("SELECT FROM oauth_states"))


async def test_login_begins(federated: Federated) -> None:
    authorization = await federated.start.begin("github", REDIRECT, CLIENT, "")
    query = parse_qs(urlsplit(authorization.url).query)
    assert query["state"] == [authorization.state]
    assert query["redirect_uri"] == [REDIRECT]
    federated.told.codes["code"] = ADA
    assert await reason(federated, authorization.state) == "OK"
    ((verifier, nonce, redirect_uri),) = federated.told.asked
    # RFC 7636, section 4: at least 43 characters, of which the provider saw the SHA-256.
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
    assert query["challenge"] == [digest.rstrip(b"=").decode()]
    assert ([nonce], redirect_uri) == (query["nonce"], REDIRECT)
    for secret in (authorization.state, verifier, nonce):
        assert len(base64.urlsafe_b64decode(secret + "=")) == 32
    assert authorization.state not in repr(authorization)


@pytest.mark.slow
async def test_each_login_has_its_own_secrets(federated: Federated) -> None:
    seen: Counter[str] = Counter()
    for _ in range(20):
        federated.told.codes["code"] = ADA
        state = await federated.begin()
        await reason(federated, state)
        seen.update((state, *federated.told.asked[-1][:2]))
    assert set(seen.values()) == {1}
    assert len(seen) == 60


TRICKS = [
    "",
    "http://localhost:8080/callback/",
    "http://localhost:8080/Callback",
    "HTTP://localhost:8080/callback",
    "http://LOCALHOST:8080/callback",
    "https://localhost:8080/callback",
    "http://localhost/callback",
    "http://localhost:08080/callback",
    "http://localhost.:8080/callback",
    "http://127.0.0.1:8080/callback",
    "http://localhost:8080/callback?",
    "http://localhost:8080/callback?x=1",
    "http://localhost:8080/callback?app=2&x=1",
    "http://localhost:8080/callback?app=3",
    "http://localhost:8080/callback#",
    "http://localhost:8080/callback#x",
    "http://localhost:8080/callback%00",
    "http://localhost:8080/callbac%6b",
    "http://localhost:8080/callback ",
    " http://localhost:8080/callback",
    "http://localhost:8080/callback\n",
    "http://localhost:8080/callback\t",
    "http://localhost:8080/callback;x",
    "http://localhost:8080/callback.evil.test",
    "http://localhost:8080/callback/../evil",
    "http://localhost:8080/x/../callback",
    "http://localhost:8080/./callback",
    "http://localhost:8080//callback",
    "http://localhost:8080\\callback",
    "http://localhost:8080/\u0441allback",
    "http://\uff4cocalhost:8080/callback",
    "http://user@localhost:8080/callback",
    "http://localhost:8080@evil.test/callback",
    "http://localhost:8080/callback@evil.test",
    "http://evil.test/http://localhost:8080/callback",
    "http://evil.test/?http://localhost:8080/callback",
    "http://evil.test/#http://localhost:8080/callback",
    "http://localhost:8080.evil.test/callback",
    "//localhost:8080/callback",
    "localhost:8080/callback",
    "/callback",
    "http://localhost:8080",
    "http://localhost:8080/callback,http://evil.test",
    "javascript:alert(1)//http://localhost:8080/callback",
    "data:text/html,http://localhost:8080/callback",
    "%",
    ".*",
]


@pytest.mark.parametrize("redirect_uri", TRICKS)
async def test_redirect_uris_are_compared_exactly(redirect_uri: str, federated: Federated) -> None:
    with pytest.raises(ServiceError) as refused:
        await federated.start.begin("github", redirect_uri, CLIENT, "")
    assert refused.value.reason == "REDIRECT_NOT_ALLOWED"
    assert await pending(federated) == 0


async def test_every_allowed_redirect_uri_works(federated: Federated) -> None:
    for redirect_uri in federated.settings.redirect_uris:
        await federated.start.begin("github", redirect_uri, CLIENT, "")
    assert await pending(federated) == 2


@pytest.mark.parametrize("provider", ["", "nobody", "GitHub", "github ", "git\0hub", "__class__"])
async def test_unknown_provider_is_rejected(provider: str, federated: Federated) -> None:
    with pytest.raises(ServiceError) as refused:
        await federated.start.begin(provider, REDIRECT, CLIENT, "")
    assert refused.value.reason == "FIELD_INVALID"
    assert await pending(federated) == 0


@pytest.mark.slow
async def test_concurrent_completions_have_one_winner(
    federated: Federated, replicas: Replicas, clock: FakeClock
) -> None:
    other = Federated(await replicas.start(unlimited()), clock)
    other.told = federated.told
    state = await federated.begin()
    federated.told.codes |= {f"code-{n}": ADA for n in range(100)}
    ends = await asyncio.gather(
        *(reason((federated, other)[n % 2], state, f"code-{n}") for n in range(100))
    )
    assert Counter(ends) == {"OK": 1, "STATE_INVALID": 99}
    assert len(federated.told.asked) == 1
    assert len(await federated.fetch("SELECT FROM sessions")) == 1


async def test_state_expires(federated: Federated, clock: FakeClock) -> None:
    federated.told.codes["code"] = ADA
    lifetime = federated.settings.state_lifetime
    first, second = await federated.begin(), await federated.begin()
    clock.advance(lifetime - timedelta(seconds=1))
    assert await reason(federated, first) == "OK"
    clock.advance(1)
    assert await reason(federated, second) == "STATE_INVALID"
    assert len(federated.told.asked) == 1


async def test_malformed_states_are_rejected(federated: Federated) -> None:
    state = await federated.begin()
    (row,) = await federated.fetch("SELECT state_hash FROM oauth_states")
    stored = row["state_hash"]
    for wrong in (
        *("", "x", state[:-1], state + "=", state.swapcase(), state + "\n", "\ud7ff" * 10),
        *(stored.hex(), base64.urlsafe_b64encode(stored).decode().rstrip("=")),
    ):
        assert await reason(federated, wrong) == "STATE_INVALID"
    assert federated.told.asked == []
    federated.told.codes["code"] = ADA
    assert await reason(federated, state) == "OK"


async def test_failed_login_cannot_be_retried(federated: Federated) -> None:
    state = await federated.begin()
    assert await reason(federated, state, "wrong") == "CREDENTIALS_INVALID"
    federated.told.codes["code"] = ADA
    assert await reason(federated, state) == "STATE_INVALID"
    assert len(federated.told.asked) == 1


@pytest.mark.slow
async def test_hanging_provider_times_out(
    federated: Federated, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    state = await federated.begin()
    monkeypatch.setattr(federated.login._providers, "_timeout", 0.05)
    monkeypatch.setattr(federated.told, "identify", hang)
    monkeypatch.setattr(federated.told, "authorization_url", hang)
    with pytest.raises(ProviderUnavailable):
        await federated.login.complete(CALL, state, AuthorizationAnswer("code"), CLIENT)
    with pytest.raises(ProviderUnavailable):
        await federated.begin()
    assert await pending(federated) == 0


async def test_state_of_removed_provider_is_invalid(federated: Federated) -> None:
    state = await federated.begin()
    del federated.login._providers._providers["github"]  # type: ignore[attr-defined]
    assert await reason(federated, state) == "STATE_INVALID"


async def test_stored_state_reveals_no_secret(federated: Federated) -> None:
    state = await federated.begin()
    (row,) = await federated.fetch("SELECT t::text FROM oauth_states t")
    federated.told.codes["code"] = ADA
    other = await federated.begin()
    # What is sealed for one state can't be opened for another.
    await federated.fetch(
        "UPDATE oauth_states SET sealed_verifier = (SELECT sealed_verifier FROM oauth_states"
        " WHERE state_hash <> $1) WHERE state_hash = $1",
        hashlib.sha256(other.encode()).digest(),
    )
    assert await reason(federated, other) == "STATE_INVALID"
    assert await reason(federated, state) == "OK"
    verifier, nonce, _ = federated.told.asked[-1]
    for secret in (state, verifier, nonce):
        for text in (secret, base64.urlsafe_b64decode(secret + "=").hex(), secret.encode().hex()):
            assert text not in row[0]


@pytest.mark.slow
async def test_login_starts_are_limited_per_ip(
    federated: Federated, replicas: Replicas, clock: FakeClock
) -> None:
    limits = BruteForceSettings.model_validate(
        {"oauth_logins_per_ip": {"requests": 3, "window": "1h"}}
    )
    limited = Federated(await replicas.start(limits), clock)
    ends = await asyncio.gather(*(limited.begin() for _ in range(20)), return_exceptions=True)
    assert Counter(type(end) for end in ends) == {str: 3, TooManyAttempts: 17}
    assert await pending(limited) == 3
    await limited.begin(ip="2001:db8::1")
    with pytest.raises(TooManyAttempts):
        # It is not refunded: logins that are only started fill the table, too.
        await limited.begin()
    # An address that was throttled here can still log in.
    await limited.service.register()
    assert await limited.service.login() == "OK"


@pytest.mark.slow
async def test_abandoned_logins_are_removed(federated: Federated, clock: FakeClock) -> None:
    for _ in range(7):
        await federated.begin()
    clock.advance(federated.settings.state_lifetime / 2)
    federated.told.codes["code"] = ADA
    young = await federated.begin()
    clock.advance(federated.settings.state_lifetime / 2 + timedelta(seconds=1))
    retention = Retention(
        database=federated.service.database, settings=RetentionSettings(batch_size=3), clock=clock
    )
    assert (await retention.run_once())["oauth_states"] == 7
    assert await reason(federated, young) == "OK"


async def test_pending_login_survives_keyring_rotation_but_not_removal(
    federated: Federated,
) -> None:
    states = federated.states
    old, new = Keyring([key("k1")]), Keyring([key("k2"), key("k1")])
    federated.told.codes |= {"1": ADA, "2": ADA}
    first = await federated.begin()
    states._keyring = new
    second = await federated.begin()
    assert await reason(federated, first, "1") == "OK"
    states._keyring = old
    # Its key is gone, so it counts as expired.
    assert await reason(federated, second, "2") == "STATE_INVALID"
