"""Keys: generation, sealing and restoring; each key has one algorithm and one id."""

import pytest

from authsvc.core.signing import jwk

MESSAGE = b"message"


@pytest.mark.parametrize("algorithm", jwk.ALGORITHMS)
def test_restored_key_is_the_same(algorithm: str) -> None:
    key = jwk.generate(algorithm)
    restored = jwk.restore(key.key_id, algorithm, key.secret_bytes())
    assert restored.key_id == key.key_id
    assert restored.public_jwk == key.public_jwk
    assert key.verifying_key.verify(MESSAGE, restored.sign(MESSAGE))
    assert restored.verifying_key.verify(MESSAGE, key.sign(MESSAGE))
    assert not restored.verifying_key.verify(b"another", key.sign(MESSAGE))


@pytest.mark.parametrize("algorithm", jwk.ALGORITHMS)
def test_key_ids_have_one_format(algorithm: str) -> None:
    first, second = jwk.generate(algorithm), jwk.generate(algorithm)
    assert first.key_id != second.key_id
    assert len(first.key_id) == len(second.key_id) == 43


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "HS256"])
def test_key_id_never_looks_like_an_option(algorithm: str) -> None:
    # One in 64 would begin with a dash.
    assert not any(jwk.generate(algorithm).key_id.startswith("-") for _ in range(500))


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
def test_secret_of_another_key_is_rejected(algorithm: str) -> None:
    first, second = jwk.generate(algorithm), jwk.generate(algorithm)
    with pytest.raises(ValueError, match="another key id"):
        jwk.restore(first.key_id, algorithm, second.secret_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("kind", jwk.ALGORITHMS)
@pytest.mark.parametrize("algorithm", [*jwk.ALGORITHMS, "PS256", "none"])
def test_secret_of_another_algorithm_is_rejected(kind: str, algorithm: str) -> None:
    if kind != algorithm:
        key = jwk.generate(kind)
        with pytest.raises(ValueError):  # noqa: PT011 - some messages come from cryptography
            jwk.restore(key.key_id, algorithm, key.secret_bytes())


@pytest.mark.parametrize("secret", [b"", b"short", b"x" * 31, b"x" * 33])
def test_shared_secret_has_256_bits(secret: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        jwk.restore("A" * 43, "HS256", secret)


def test_rsa_key_has_2048_bits() -> None:
    assert jwk.generate("RS256")._secret.key_size == 2048


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", jwk.ALGORITHMS)
@pytest.mark.parametrize("signature", [b"", b"x", b"\0" * 64, b"\xff" * 64, b"x" * 10_000])
def test_malformed_signatures_are_rejected_without_error(algorithm: str, signature: bytes) -> None:
    assert not jwk.generate(algorithm).verifying_key.verify(MESSAGE, signature)
