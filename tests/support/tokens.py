"""Sessions, keys and settings for tests of tokens."""

import base64
import json
from collections.abc import Mapping
from datetime import timedelta
from uuid import UUID

from pydantic import SecretStr

from authsvc.config import KeySettings, TokenSettings
from authsvc.core.audit.recording import AuditType
from authsvc.core.lib import base64url
from authsvc.core.lib.ids import uuid7
from authsvc.core.lib.sealing import Keyring
from authsvc.core.roles.permissions import Permissions
from authsvc.core.signing import jws
from authsvc.core.signing.access_tokens import AccessTokens
from authsvc.core.signing.jwk import SigningKey
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.errors import StoreUnavailable
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId, UserId
from authsvc.models.sessions import Session
from authsvc.models.signing import KeyState
from authsvc.models.users import UserStatus
from authsvc.store.postgres.database import Database

CALL = Call(request_id="request-1", caller="spiffe://test/admin")
PERMISSIONS = Permissions({"user": ("read", "write"), "editor": ("write", "publish")})


def keyring(*names: str) -> Keyring:
    """Return a keyring of keys with these names, newest first; a name always gives the same key."""
    return Keyring(
        [
            KeySettings(id=name, key=SecretStr(base64.b64encode(name.encode().ljust(32)).decode()))
            for name in names or ("ring1",)
        ]
    )


def token_settings(**changes: object) -> TokenSettings:
    """Return the default token settings with `changes`, and with exact lifetimes."""
    return TokenSettings.model_validate({"lifetime_jitter": 0, **changes})


async def load_keys(database: Database, clock: Clock, **settings: object) -> SigningKeys:
    """Return the signing keys of one replica, as after startup."""
    keys = SigningKeys(
        database=database, keyring=keyring(), settings=token_settings(**settings), clock=clock
    )
    await keys.load()
    return keys


async def unreachable(*_: object) -> bytes:
    """Sign as an HSM does that doesn't answer."""
    raise StoreUnavailable


def make_session(clock: Clock, *, roles: tuple[str, ...] = ("user",), days: float = 30) -> Session:
    """Return a session that was opened a minute ago and ends in `days`."""
    now = clock.now()
    login = now - timedelta(minutes=1)
    return Session(
        session_id=SessionId(uuid7(login)),
        user_id=UserId(UUID("01900000-0000-7000-8000-000000000001")),
        create_time=login,
        last_use_time=login,
        authentication_time=login,
        idle_expire_time=now + timedelta(days=7),
        absolute_expire_time=now + timedelta(days=days),
        client=ClientContext(),
        authentication_methods=("pwd", "otp"),
        csrf_hash=bytes(32),
        refresh_counter=0,
        revoke_time=None,
        revoke_reason=None,
        user_status=UserStatus.ACTIVE,
        user_roles=roles,
    )


def signed(key: SigningKey, typ: str, payload: Mapping[str, object]) -> str:
    """Return `payload` signed by a key whose secret is in this process."""
    signing_input = jws.input_of(key, typ, payload)
    return f"{signing_input}.{base64url.encode(key.sign(signing_input.encode()))}"


async def in_state(keys: SigningKeys, state: KeyState) -> list[str]:
    """Return the ids of the stored keys in a state."""
    return [info.key_id for info in await keys.list() if info.state is state]


async def audited(database: Database, event: AuditType) -> list[tuple[str, str]]:
    """Return the caller and the key of each event of a type, oldest first."""
    async with database.connection() as conn:
        rows = await conn.fetch(
            "SELECT caller, detail FROM audit_events WHERE type = $1 ORDER BY event_id", event
        )
    return [(row["caller"], json.loads(row["detail"])["key_id"]) for row in rows]


def tokens_of(keys: SigningKeys, clock: Clock, **settings: object) -> AccessTokens:
    """Return a replica's access tokens, with the default settings and changes to them."""
    return AccessTokens(
        keys=keys, settings=token_settings(**settings), permissions=PERMISSIONS, clock=clock
    )


def published(keys: SigningKeys) -> list[str]:
    """Return the ids of the public keys."""
    return [key["kid"] for key in json.loads(keys.jwks())["keys"]]
