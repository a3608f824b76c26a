"""Owns the chapter about session keys: two clients talk, and the service can't listen."""

from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from google.protobuf.duration_pb2 import Duration

from authsvc.cli.demo.end_to_end import agree, decrypt, encrypt, public_jwk, verify_statement
from authsvc.cli.demo.tour import Tour, new_client, new_email
from authsvc.v1 import auth_service_pb2
from authsvc.v1 import session_service_pb2 as pb
from authsvc.v1.common_pb2 import Tokens

_PURPOSE = "demo-chat"


@dataclass(frozen=True, slots=True)
class _Peer:
    """A client with its own private key, which never leaves it."""

    tokens: Tokens
    private: X25519PrivateKey
    key: pb.SessionKey


async def session_keys(tour: Tour) -> None:
    """Show attested keys, from their issuing to the end of their session."""
    tour.title("Ada and Bob have their public keys attested")
    ada = await _join(tour, await tour.tokens())
    bob_email, tour.client = new_email("bob"), new_client()
    await tour.register(bob_email, tour.password, "Bob")
    bob = await _join(tour, (await tour.login(bob_email, tour.password)).tokens)
    for name, peer in (("Ada", ada), ("Bob", bob)):
        tour.say(f"{name}'s key expires", peer.key.expire_time.ToJsonString())
    private = '{"kty":"OKP","crv":"X25519","x":"AA","d":"AA"}'
    await tour.rejected(
        "a private key, sent by mistake",
        tour.sessions().IssueSessionKey(_request(ada.tokens, private)),
    )

    tour.title("Each gets the other's statement, and verifies it with the published keys")
    jwks = (await tour.auth().GetJwks(auth_service_pb2.GetJwksRequest())).jwks_json
    issuer = await _issuer(tour, ada.tokens)
    of_bob = await _statement(tour, jwks, issuer, bob)
    of_ada = await _statement(tour, jwks, issuer, ada)
    tour.say("the user of Bob's statement", of_bob["sub"])
    confusion = auth_service_pb2.ValidateTokenRequest(access_token=bob.key.statement)
    answer = await tour.auth().ValidateToken(confusion)
    tour.answer("a statement as an access token", "MALFORMED", accepted=answer.active)

    tour.title("They agree on a key, and talk")
    message = encrypt(agree(ada.private, of_ada, of_bob), of_ada["sub"], "Meet me at the engine.")
    tour.say("what the service could see", f"{message.hex()[:40]}…")
    text = decrypt(agree(bob.private, of_bob, of_ada), of_ada["sub"], message)
    tour.say("what Bob reads", text)

    tour.title("Bob logs out, and his key is gone")
    request = auth_service_pb2.LogoutRequest(refresh_token=bob.tokens.refresh_token)
    await tour.auth().Logout(request)
    found = await _find(tour, bob)
    tour.answer("his key", "not listed any more", accepted=found is not None)
    await tour.rejected(
        "another key for his session",
        tour.sessions().IssueSessionKey(_request(bob.tokens, public_jwk(bob.private))),
    )


def _request(tokens: Tokens, jwk: str) -> pb.IssueSessionKeyRequest:
    return pb.IssueSessionKeyRequest(
        session_token=tokens.session_token,
        csrf_token=tokens.csrf_token,
        public_jwk=jwk,
        purpose=_PURPOSE,
        ttl=Duration(seconds=600),
    )


async def _join(tour: Tour, tokens: Tokens) -> _Peer:
    private = X25519PrivateKey.generate()
    issued = await tour.sessions().IssueSessionKey(_request(tokens, public_jwk(private)))
    return _Peer(tokens, private, issued.session_key)


async def _issuer(tour: Tour, tokens: Tokens) -> str:
    request = auth_service_pb2.ValidateTokenRequest(access_token=tokens.access_token)
    return (await tour.auth().ValidateToken(request)).claims.issuer


async def _find(tour: Tour, peer: _Peer) -> pb.SessionKey | None:
    request = pb.GetSessionKeysRequest(user_id=peer.tokens.user_id)
    listed = await tour.sessions("edge").GetSessionKeys(request)
    return next((key for key in listed.session_keys if key.key_id == peer.key.key_id), None)


async def _statement(tour: Tour, jwks: str, issuer: str, peer: _Peer) -> dict[str, Any]:
    found = await _find(tour, peer)
    if found is None:
        tour.fail("the statement", "is not listed")
    user_id = peer.tokens.user_id
    return verify_statement(found.statement, jwks, issuer=issuer, user_id=user_id, purpose=_PURPOSE)
