"""Owns the RPCs of AdminService about the keys that sign access tokens."""

import re

from authsvc.core.lib import paging
from authsvc.errors import FieldInvalid
from authsvc.models.signing import KeyState, SigningKeyInfo
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.rpc.topic import Topic
from authsvc.v1 import admin_service_pb2 as pb

_MAX_KEY_ID = 64
# The creation of the last key of a page, in microseconds, and its id.
_PAGE_TOKEN = re.compile(r"([0-9]{1,16})\.([!-~]{1,64})", re.ASCII)


class SigningKeyRpcs(Topic):
    """The keys that sign access tokens."""

    async def ListSigningKeys(
        self, request: pb.ListSigningKeysRequest, _context: Context
    ) -> pb.ListSigningKeysResponse:
        """List the keys, newest first."""
        size = paging.page_size(request.page_size)
        keys = await self._use.signing_keys.list()
        if request.page_token:
            after = _parse_page_token(request.page_token)
            keys = [key for key in keys if _order(key) > after]
        page, next_page_token = paging.cut(keys, size, _page_token)
        return pb.ListSigningKeysResponse(
            keys=map(_key_message, page), next_page_token=next_page_token
        )

    async def RotateSigningKey(
        self, request: pb.RotateSigningKeyRequest, _context: Context
    ) -> pb.RotateSigningKeyResponse:
        """Let another key sign as soon as every verifier has it, or now."""
        replaced = convert.text(request.active_key_id, "active_key_id", _MAX_KEY_ID)
        key = await self._use.signing_keys.rotate(current_call(), replaced, now=request.now)
        return pb.RotateSigningKeyResponse(
            active_key=_key_message(self._use.signing_keys.active_info()),
            next_key=_key_message(key) if key.state is KeyState.PREPARED else None,
        )

    async def RevokeSigningKey(
        self, request: pb.RevokeSigningKeyRequest, _context: Context
    ) -> pb.RevokeSigningKeyResponse:
        """Revoke a key."""
        key_id = convert.text(request.key_id, "key_id", _MAX_KEY_ID, required=True)
        revocation = await self._use.signing_keys.revoke(current_call(), key_id)
        return pb.RevokeSigningKeyResponse(
            active_key=_key_message(self._use.signing_keys.active_info()),
            revocation_cursor=convert.revocation_cursor(revocation.cursor),
        )


def _key_message(info: SigningKeyInfo) -> pb.SigningKey:
    message = pb.SigningKey(
        key_id=info.key_id,
        algorithm=info.algorithm,
        state=_STATES[info.state],
        create_time=convert.timestamp(info.create_time),
    )
    for name in ("activate_time", "retire_time", "revoke_time", "expire_time"):
        time = getattr(info, name)
        if time is not None:
            getattr(message, name).CopyFrom(convert.timestamp(time))
    return message


def _order(info: SigningKeyInfo) -> tuple[int, str]:
    """Return what the list is ordered by."""
    created = convert.timestamp(info.create_time)
    return -(created.seconds * 1_000_000 + created.nanos // 1_000), info.key_id


def _page_token(last: SigningKeyInfo) -> str:
    microseconds, key_id = _order(last)
    return f"{-microseconds}.{key_id}"


def _parse_page_token(text: str) -> tuple[int, str]:
    match = _PAGE_TOKEN.fullmatch(text)
    if match is None:
        raise FieldInvalid("page_token", "is not a page token of this list")
    return -int(match[1]), match[2]


_STATES = {state: pb.SigningKeyState.Value(f"SIGNING_KEY_STATE_{state.name}") for state in KeyState}
