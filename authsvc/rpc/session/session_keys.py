"""Owns the RPCs of SessionService about session keys and TURN credentials."""

import re
from typing import TypeAlias

from authsvc.core.session_keys.keys import AttestedKey, NewSessionKey
from authsvc.core.session_keys.proof import SessionProof
from authsvc.core.session_keys.public_keys import (
    MAX_FINGERPRINT_BYTES,
    MAX_JWK_BYTES,
    parse_fingerprint,
    parse_jwk,
)
from authsvc.errors import FieldInvalid
from authsvc.models.session_keys import PublicKey, PublicKeyKind
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.rpc.topic import Topic
from authsvc.v1 import session_service_pb2 as pb

_PURPOSE = re.compile(r"[a-z0-9._-]{1,64}", re.ASCII)

_Proving: TypeAlias = pb.IssueSessionKeyRequest | pb.CreateTurnCredentialsRequest


class SessionKeyRpcs(Topic):
    """Keys attested for a session's user, and credentials for TURN servers."""

    async def IssueSessionKey(
        self, request: pb.IssueSessionKeyRequest, _context: Context
    ) -> pb.IssueSessionKeyResponse:
        """Attest a public key."""
        wanted = NewSessionKey(
            public_key=_public_key(request),
            purpose=_purpose(request.purpose),
            ttl=convert.interval(request.ttl, "ttl") if request.HasField("ttl") else None,
        )
        issued = await self._use.session_keys.issue(current_call(), _proof(request), wanted)
        return pb.IssueSessionKeyResponse(session_key=_message(issued))

    async def GetSessionKeys(
        self, request: pb.GetSessionKeysRequest, _context: Context
    ) -> pb.GetSessionKeysResponse:
        """List the keys of a user's active sessions, newest first."""
        page = await self._use.session_keys.list(
            convert.user_id(request.user_id),
            request.page_size,
            convert.text(request.page_token, "page_token", 512),
        )
        response = pb.GetSessionKeysResponse(next_page_token=page.next_page_token)
        await self._use.slices.map(
            lambda key: response.session_keys.append(_message(key)), page.keys
        )
        return response

    async def CreateTurnCredentials(
        self, request: pb.CreateTurnCredentialsRequest, _context: Context
    ) -> pb.CreateTurnCredentialsResponse:
        """Create credentials for the TURN servers."""
        made = await self._use.turn_credentials.create(
            current_call(),
            _proof(request),
            convert.interval(request.ttl, "ttl") if request.HasField("ttl") else None,
        )
        return pb.CreateTurnCredentialsResponse(
            username=made.username,
            password=made.password,
            ttl=convert.duration(made.ttl.total_seconds()),
            uris=made.uris,
        )


def _proof(request: _Proving) -> SessionProof:
    return SessionProof(
        convert.token(request.session_token, "session_token"),
        convert.client_context(request.client),
        request.csrf_token,
    )


def _public_key(request: pb.IssueSessionKeyRequest) -> PublicKey:
    kind = request.WhichOneof("key")
    if kind == "public_jwk":
        text = convert.text(request.public_jwk, kind, MAX_JWK_BYTES, required=True)
        return parse_jwk(text, kind)
    if kind == "dtls_fingerprint":
        text = convert.text(request.dtls_fingerprint, kind, MAX_FINGERPRINT_BYTES, required=True)
        return parse_fingerprint(text, kind)
    raise FieldInvalid("key", "must be a public_jwk or a dtls_fingerprint")


def _purpose(value: str) -> str:
    if not _PURPOSE.fullmatch(value):
        raise FieldInvalid(
            "purpose", "must be 1 to 64 lower-case letters, digits, dots, hyphens and underscores"
        )
    return value


def _message(attested: AttestedKey) -> pb.SessionKey:
    key = attested.key
    message = pb.SessionKey(
        key_id=str(key.key_id),
        session_id=str(key.session_id),
        user_id=str(key.user_id),
        purpose=key.purpose,
        create_time=convert.timestamp(key.create_time),
        expire_time=convert.timestamp(key.expire_time),
        statement=attested.statement,
    )
    if key.public_key.kind is PublicKeyKind.JWK:
        message.public_jwk = key.public_key.text
    else:
        message.dtls_fingerprint = key.public_key.text
    return message
