"""id_tokens over real HTTP: what is believed of them, and what is not."""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from joserfc import jws
from joserfc.jwk import OctKey

from tests.support.clock import FakeClock
from tests.support.oidc_client import ADA, Client
from tests.support.provider import CLIENT_ID, LocalProvider, public, signing_key

# What an id_token says, by what is wrong with it; None: it doesn't say it.
BAD_CLAIMS: Mapping[str, Mapping[str, Any]] = {
    "another issuer": {"iss": "https://elsewhere.test"},
    "issuer with a slash": {"iss": "http://127.0.0.1/"},
    "issuer is a list": {"iss": ["http://127.0.0.1"]},
    "no issuer": {"iss": None},
    "another client": {"aud": "another"},
    "several clients, not ours": {"aud": ["another", "third"]},
    "several clients without azp": {"aud": [CLIENT_ID, "another"]},
    "several clients, for another": {"aud": [CLIENT_ID, "another"], "azp": "another"},
    "one client, for another": {"azp": "another"},
    "azp is a list": {"azp": [CLIENT_ID]},
    "no client": {"aud": None},
    "empty clients": {"aud": []},
    "clients are numbers": {"aud": [7]},
    "another nonce": {"nonce": "another"},
    "no nonce": {"nonce": None},
    "nonce is a number": {"nonce": 7},
    "nonce is half a surrogate pair": {"nonce": "\ud800"},
    "no expiry": {"exp": None},
    "expiry is text": {"exp": "2524608000"},
    "expiry is true": {"exp": True},
    "expiry is not a number": {"exp": float("nan")},
    "no time": {"iat": None},
    "time is text": {"iat": "0"},
    "time is endless": {"iat": 10**400},
    "not yet valid: text": {"nbf": "0"},
    "not yet valid: endless": {"nbf": float("inf")},
    "no subject": {"sub": None},
    "subject is empty": {"sub": ""},
    "subject is a number": {"sub": 7},
    "subject is a list": {"sub": ["ada"]},
    "subject is long": {"sub": "a" * 257},
    "subject with NUL": {"sub": "a\0"},
    "subject is half a surrogate pair": {"sub": "\ud800"},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD_CLAIMS)
async def test_id_token_with_wrong_claim_is_rejected(case: str, client: Client) -> None:
    assert await client.log_in() == ADA
    assert await client.refused(**BAD_CLAIMS[case])


async def test_id_token_with_several_audiences_is_accepted_with_azp(client: Client) -> None:
    assert await client.log_in(aud=[CLIENT_ID, "another"], azp=CLIENT_ID) == ADA
    assert await client.log_in(aud=[CLIENT_ID]) == ADA


async def test_token_times_are_checked_with_skew(client: Client, clock: FakeClock) -> None:
    now = int(clock.now().timestamp())
    assert await client.log_in(iat=now + 50, nbf=now + 50, exp=now - 50) == ADA
    assert await client.refused(exp=now - 61)
    assert await client.refused(iat=now + 61)
    assert await client.refused(nbf=now + 61)


Sign = Callable[[LocalProvider, dict[str, Any]], str]


def _encoded(part: object) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unsigned(provider: LocalProvider, claims: dict[str, Any], algorithm: str) -> str:
    header = {"alg": algorithm, "kid": provider.key.key_id}
    return f"{_encoded(header)}.{_encoded(claims)}."


def _symmetric(provider: LocalProvider, claims: dict[str, Any]) -> str:
    # The provider's public key, which everybody has, as if it were a shared secret.
    secret = OctKey.import_key(json.dumps(public(provider.key)))
    header = {"alg": "HS256", "kid": provider.key.key_id}
    return jws.serialize_compact(header, json.dumps(claims), secret, algorithms=["HS256"])


def _other_key(provider: LocalProvider, claims: dict[str, Any]) -> str:
    forged = signing_key("forged")
    headers = {"kid": provider.key.key_id, "jwk": public(forged)}
    return jwt.encode(claims, forged.key, algorithm="ES256", headers=headers)


def _own_key(provider: LocalProvider, claims: dict[str, Any]) -> str:
    forged = signing_key("forged")
    headers = {"kid": "forged", "jwk": public(forged), "jku": f"{provider.address}/jwks"}
    return jwt.encode(claims, forged.key, algorithm="ES256", headers=headers)


def _other_algorithm(provider: LocalProvider, claims: dict[str, Any]) -> str:
    key = rsa.generate_private_key(65_537, 2_048)
    return jwt.encode(claims, key, algorithm="RS256", headers={"kid": provider.key.key_id})


def _cut(provider: LocalProvider, claims: dict[str, Any]) -> str:
    return provider.signed(claims)[:-4]


def _changed(provider: LocalProvider, claims: dict[str, Any]) -> str:
    header, _, signature = provider.signed(claims | {"sub": "another"}).split(".")
    return f"{header}.{_encoded(claims)}.{signature}"


FORGED: Mapping[str, Sign] = {
    "none": lambda provider, claims: _unsigned(provider, claims, "none"),
    "None": lambda provider, claims: _unsigned(provider, claims, "None"),
    "no signature": lambda provider, claims: _unsigned(provider, claims, "ES256"),
    "HS256 with the public key": _symmetric,
    "key of another": _other_key,
    "key that it brings along": _own_key,
    "another algorithm": _other_algorithm,
    "cut": _cut,
    "changed": _changed,
    "no kid, key of another": lambda _provider, claims: jwt.encode(
        claims, signing_key("forged").key, algorithm="ES256"
    ),
    "another kid": lambda provider, claims: provider.signed(claims, kid="another"),
    "crit": lambda provider, claims: provider.signed(claims, crit=["x"], x=1),
    "empty": lambda _provider, _claims: "",
    "dots": lambda _provider, _claims: "..",
    "garbage": lambda _provider, _claims: "eyJ.\ud800.é",
    "deep": lambda _provider, _claims: f"{_encoded(b'[' * 20_000)}.e30.",
    "deep claims": lambda provider, _claims: _raw(provider, b"[" * 30_000),
    "claims are a list": lambda provider, _claims: _raw(provider, b"[]"),
    "claims are no JSON": lambda provider, _claims: _raw(provider, b"\xff"),
}


def _raw(provider: LocalProvider, payload: bytes) -> str:
    headers = {"kid": provider.key.key_id}
    return jwt.PyJWS().encode(payload, provider.key.key, algorithm="ES256", headers=headers)


@pytest.mark.slow
@pytest.mark.parametrize("case", FORGED)
async def test_forged_id_token_is_rejected(
    case: str, client: Client, provider: LocalProvider
) -> None:
    provider.sign = lambda claims: FORGED[case](provider, claims)
    assert await client.refused()


@pytest.mark.parametrize(
    "change",
    [{"use": "enc"}, {"alg": "ES384"}, {"alg": "none"}, {"crv": "P-384"}, {"x": "AA"}, {"kty": 7}],
    ids=str,
)
async def test_key_is_used_only_for_its_declared_purpose(
    change: dict[str, Any], client: Client, provider: LocalProvider
) -> None:
    provider.keys = [public(provider.key) | change]
    assert await client.refused()


def _unsuitable(key: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return keys of the same kid that this one must not be mistaken for."""
    rsa_key = rsa.generate_private_key(65_537, 2_048)
    rsa_jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key.public_key()))
    kid = {"kid": key["kid"]}
    return [
        rsa_jwk | kid | {"alg": "RS256", "use": "sig"},
        rsa_jwk | kid | {"alg": "RS384", "use": "sig"},
        rsa_jwk | kid | {"alg": "PS256", "use": "sig"},
        rsa_jwk | kid | {"alg": "RSA-OAEP", "use": "enc"},
        dict(key) | {"alg": "ES256", "use": "enc"},
        dict(key) | {"alg": "ECDH-ES", "use": None},
        dict(key) | {"use": None, "key_ops": ["deriveBits"]},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA", **kid},
        {"kty": "OKP", "crv": "X25519", "x": "AA", **kid},
        {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA", **kid},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", **kid},
        {"kty": ["EC"], **kid},
        kid,
    ]


KEYS: Mapping[str, Callable[[dict[str, Any]], list[dict[str, Any]]]] = {
    "after others of its kid": lambda key: [*_unsuitable(key), key],
    "before others of its kid": lambda key: [key, *_unsuitable(key)],
    "twice": lambda key: [key, key],
    "another one of its kid": lambda key: [public(signing_key(key["kid"])), key],
    "without kid": lambda key: [_without(key, "kid")],
    "without kid, beside others": lambda key: [
        public(signing_key("other")),
        _without(public(signing_key("x")), "kid"),
        _without(key, "kid"),
    ],
    "without alg and use": lambda key: [_without(key, "alg", "use")],
    "alg and use are null": lambda key: [key | {"alg": None, "use": None}],
    "for verification": lambda key: [_without(key, "use") | {"key_ops": ["verify"]}],
    "with a certificate": lambda key: [key | {"x5c": ["MII"], "x5t": "x", "issuer": "https://x"}],
}


def _without(key: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in key.items() if name not in names}


@pytest.mark.slow
@pytest.mark.parametrize("names_key", [True, False])
@pytest.mark.parametrize("case", KEYS)
async def test_key_is_chosen_by_use_type_and_algorithm_then_kid(
    case: str, names_key: bool, client: Client, provider: LocalProvider
) -> None:
    provider.keys = KEYS[case](public(provider.key))
    if not names_key:
        provider.sign = lambda claims: jwt.encode(claims, provider.key.key, algorithm="ES256")
    assert await client.log_in() == ADA
    provider.sign = lambda claims: jwt.encode(
        claims,
        signing_key("forged").key,
        algorithm="ES256",
        headers={"kid": provider.key.key_id} if names_key else {},
    )
    assert await client.refused()


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "PS256"])
async def test_rsa_key_of_one_kid_for_several_algorithms_is_accepted(
    algorithm: str, client: Client, provider: LocalProvider
) -> None:
    key = rsa.generate_private_key(65_537, 2_048)
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())) | {"kid": "rsa"}
    provider.keys = [
        jwk | {"alg": alg, "use": use}
        for alg, use in (("RSA-OAEP", "enc"), ("RS256", "sig"), ("RS384", "sig"), ("PS256", "sig"))
    ]
    provider.sign = lambda claims: jwt.encode(
        claims, key, algorithm=algorithm, headers={"kid": "rsa"}
    )
    assert await client.log_in() == ADA
    provider.sign = lambda claims: jwt.encode(claims, key, algorithm="PS512")
    assert await client.refused()


async def test_new_key_under_the_old_kid_is_fetched(
    client: Client, provider: LocalProvider
) -> None:
    assert await client.log_in() == ADA
    provider.key = signing_key(str(provider.key.key_id))
    provider.keys = [public(provider.key)]
    assert await client.log_in() == ADA


async def test_number_of_tried_keys_is_bounded(client: Client, provider: LocalProvider) -> None:
    others = [_without(public(signing_key("x")), "kid") for _ in range(8)]
    provider.keys = [*others, _without(public(provider.key), "kid")]
    assert await client.refused()
    provider.keys = [*others, public(provider.key)]
    assert await client.log_in() == ADA


async def test_symmetric_key_of_provider_is_not_accepted(
    client: Client, provider: LocalProvider
) -> None:
    secret = OctKey.import_key("a secret that everybody can read: 32")
    provider.keys.append(dict(secret.as_dict(private=True)) | {"kid": "oct"})
    provider.sign = lambda claims: jws.serialize_compact(
        {"alg": "HS256", "kid": "oct"}, json.dumps(claims), secret, algorithms=["HS256"]
    )
    assert await client.refused()


def _rs256(key: rsa.RSAPrivateKey, key_id: str, claims: dict[str, Any]) -> str:
    # By hand: libraries complain of short keys.
    message = f"{_encoded({'alg': 'RS256', 'kid': key_id})}.{_encoded(claims)}"
    signature = key.sign(message.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{message}.{_encoded(signature)}"


@pytest.mark.parametrize(("size", "refused"), [(2_048, False), (1_024, True)])
async def test_short_rsa_keys_are_rejected(
    size: int, refused: bool, client: Client, provider: LocalProvider
) -> None:
    key = rsa.generate_private_key(65_537, size)
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    provider.keys.append(jwk | {"kid": "rsa"})
    provider.sign = lambda claims: _rs256(key, "rsa", claims)
    if refused:
        assert await client.refused()
    else:
        assert await client.log_in() == ADA
