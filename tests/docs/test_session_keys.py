"""docs/session-keys.md: its recipe, run as it stands there, between two clients of a service."""

import re
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from authsvc.cli.demo import end_to_end
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1.common_pb2 import Tokens
from tests.support.documents import REPOSITORY
from tests.support.service import Service
from tests.support.session_keys import issue, keys_of

_PAGE = REPOSITORY / "docs" / "session-keys.md"


def _recipe() -> str:
    [code] = re.findall(r"```python\n(.*?)```", _PAGE.read_text(), re.DOTALL)
    return str(code)


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    """The functions of the page."""
    names: dict[str, Any] = {}
    exec(_recipe(), names)
    return names


def test_tour_uses_the_recipe() -> None:
    assert _recipe() in Path(end_to_end.__file__).read_text()


async def _logout(service: Service, tokens: Tokens) -> None:
    await service.auth().Logout(auth_pb.LogoutRequest(refresh_token=tokens.refresh_token))


async def test_two_clients_agree_on_a_key_and_the_service_cannot_read(
    service: Service, recipe: dict[str, Any]
) -> None:
    verify, agree = recipe["verify_statement"], recipe["agree"]
    encrypt, decrypt = recipe["encrypt"], recipe["decrypt"]
    ada = await service.new_session()
    bob = await service.new_session("bob@example.test")
    private = {who.user_id: X25519PrivateKey.generate() for who in (ada, bob)}
    jwks = (await service.auth().GetJwks(auth_pb.GetJwksRequest())).jwks_json
    issuer = service.settings.tokens.issuer
    statements, claims = {}, {}
    for who in (ada, bob):
        jwk = end_to_end.public_jwk(private[who.user_id])
        key = await issue(service, who, public_jwk=jwk)
        statements[who.user_id] = key.statement
        claims[who.user_id] = verify(
            key.statement, jwks, issuer=issuer, user_id=who.user_id, purpose="chat"
        )
    a, b = ada.user_id, bob.user_id
    key = agree(private[a], claims[a], claims[b])
    message = encrypt(key, a, "Meet me at the engine.")
    same = agree(private[b], claims[b], claims[a])
    assert decrypt(same, a, message) == "Meet me at the engine."

    # All that the service has seen: public keys, statements and the message.
    assert b"engine" not in message
    with pytest.raises(InvalidTag):
        decrypt(agree(X25519PrivateKey.generate(), claims[a], claims[b]), a, message)
    with pytest.raises(InvalidTag):
        decrypt(same, b, message)
    with pytest.raises(InvalidTag):
        decrypt(same, a, message[:-1] + bytes([message[-1] ^ 1]))
    held = await service.fetch("SELECT t::text AS row FROM session_keys t")
    raw = [each.private_bytes_raw().hex() for each in private.values()]
    assert not any(secret in row["row"] for secret in raw for row in held)

    # A statement is refused by whoever expects another one, and so is every other token.
    right = {"issuer": issuer, "user_id": b, "purpose": "chat"}
    assert verify(statements[b], jwks, **right)
    for wrong in ({"issuer": "x"}, {"user_id": a}, {"purpose": "files"}):
        with pytest.raises(jwt.InvalidTokenError):
            verify(statements[b], jwks, **(right | wrong))
    for text in (bob.access_token, statements[b][:-3] + "AAA"):
        with pytest.raises(jwt.InvalidTokenError):
            verify(text, jwks, **right)
    with pytest.raises((jwt.PyJWTError, KeyError)):
        verify(statements[b], '{"keys": []}', **right)

    # The statement still verifies after the end of the session: the verifier has to ask.
    assert await keys_of(service, b) == [claims[b]["jti"]]
    await _logout(service, bob)
    assert verify(statements[b], jwks, **right)
    assert await keys_of(service, b) == []
