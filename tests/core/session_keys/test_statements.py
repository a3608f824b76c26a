"""Statements and access tokens: neither is ever taken for the other."""

from datetime import timedelta
from uuid import UUID

import pytest

from authsvc.config import Settings, TokenSettings
from authsvc.core.session_keys.statements import Statements
from authsvc.core.signing import jws, token_claims
from authsvc.core.signing.access_tokens import AccessTokens
from authsvc.core.signing.jws import Malformed
from authsvc.errors import FailedPrecondition, Reason
from authsvc.models.ids import SessionId, SessionKeyId, UserId
from authsvc.models.session_keys import STATEMENT_AUDIENCE, PublicKey, PublicKeyKind, SessionKey
from authsvc.models.tokens import InactiveReason
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock
from tests.support.tokens import PERMISSIONS, load_keys

_TYPE = "session-key+jwt"


def _key(clock: FakeClock) -> SessionKey:
    return SessionKey(
        key_id=SessionKeyId(UUID(int=1)),
        session_id=SessionId(UUID(int=2)),
        user_id=UserId(UUID(int=3)),
        purpose="chat",
        public_key=PublicKey(PublicKeyKind.JWK, '{"crv":"X25519","kty":"OKP","x":"AA"}'),
        create_time=clock.now(),
        expire_time=clock.now() + timedelta(seconds=90),
    )


async def test_statement_is_no_access_token_even_under_its_type(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    settings = TokenSettings()
    tokens = AccessTokens(keys=keys, settings=settings, permissions=PERMISSIONS, clock=clock)
    statement = await Statements(keys, settings, clock).sign(_key(clock))
    payload = jws.parse(statement, _TYPE).payload
    for text in (statement, await keys.sign("at+jwt", payload)):
        for audience in ("", STATEMENT_AUDIENCE, None):
            assert tokens.verify(text, audience) is InactiveReason.MALFORMED
    with pytest.raises(Malformed):
        token_claims.read(payload)
    assert settings.audience != STATEMENT_AUDIENCE


async def test_access_token_is_no_statement_even_for_its_audience(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    tokens = AccessTokens(keys=keys, settings=TokenSettings(), permissions=PERMISSIONS, clock=clock)
    expire_time = clock.now() + timedelta(seconds=90)
    token = await tokens.sign({"sub": "x"}, (STATEMENT_AUDIENCE,), expire_time)
    with pytest.raises(Malformed):
        jws.parse(token.text, _TYPE)


async def test_symmetric_key_signs_no_statement(database: Database, clock: FakeClock) -> None:
    settings = TokenSettings(algorithm="HS256")
    keys = await load_keys(database, clock, algorithm="HS256")
    with pytest.raises(FailedPrecondition) as refused:
        await Statements(keys, settings, clock).sign(_key(clock))
    assert refused.value.reason is Reason.NOT_CONFIGURED
    assert refused.value.metadata == {"setting": "tokens.algorithm"}


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": {"audience": STATEMENT_AUDIENCE}},
        {
            "callers": [
                {
                    "identity": "spiffe://authsvc.test/app",
                    "roles": ["app"],
                    "audiences": [STATEMENT_AUDIENCE],
                }
            ]
        },
    ],
)
def test_settings_refuse_the_audience_of_statements(
    changes: dict[str, object], settings: Settings
) -> None:
    with pytest.raises(ValueError, match="is reserved"):
        Settings.model_validate(settings.model_dump() | changes)
