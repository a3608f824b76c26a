"""TURN credentials as servers compute them, from their settings."""

from typing import Any
from uuid import UUID

import pytest

from authsvc.app.build import open_parts
from authsvc.config import Settings, TurnSettings
from authsvc.core.session_keys.proof import SessionProof
from authsvc.models.ids import UserId
from tests.support.clock import FakeClock
from tests.support.sessions import CALL, CLIENT, METHODS

_SECRET = "north-of-the-wall"
_URI = "turn:turn.example.test"


async def test_password_is_that_of_openssl(live_settings: Settings, clock: FakeClock) -> None:
    user_id = UserId(UUID(int=7))
    turn = TurnSettings.model_validate({"uris": [_URI], "secrets": [_SECRET]})
    async with open_parts(live_settings.model_copy(update={"turn": turn}), clock) as parts:
        await parts.use.signing_keys.load()
        async with parts.database.connection() as connection:
            await connection.execute(
                "INSERT INTO users (user_id, email, email_canonical, create_time, update_time)"
                " VALUES ($1, 'a@b.example', 'a@b.example', now(), now())",
                user_id,
            )
        tokens = await parts.use.session_opening.create(CALL, user_id, CLIENT, METHODS)
        made = await parts.use.turn_credentials.create(
            CALL, SessionProof(tokens.session_token, CLIENT), None
        )
    # printf %s USERNAME | openssl dgst -sha1 -hmac north-of-the-wall -binary | base64
    assert made.username == "1893459600:00000000-0000-0000-0000-000000000007"
    assert made.password == "JQE1p9KpeMqbv186Iw5lfnAtBpk="
    assert made.password not in repr(made)
    assert _SECRET not in repr(turn)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"uris": [_URI]}, "need each other"),
        ({"secrets": [_SECRET]}, "need each other"),
        ({"uris": [_URI], "secrets": [_SECRET, _SECRET]}, "twice"),
        ({"uris": [_URI], "secrets": ["short"]}, "16 to 256"),
        ({"uris": [_URI], "secrets": ["with a blank in it, so long"]}, "16 to 256"),
        ({"uris": ["https://turn.example.test"], "secrets": [_SECRET]}, "TURN URI"),
        ({"uris": ["turn:turn.example.test/path"], "secrets": [_SECRET]}, "TURN URI"),
        ({"uris": [f"{_URI}?transport=sctp"], "secrets": [_SECRET]}, "TURN URI"),
        ({"uris": [_URI], "secrets": [_SECRET], "algorithm": "md5"}, "sha1"),
        ({"uris": [_URI], "secrets": [_SECRET], "max_lifetime": "0s"}, "duration"),
    ],
)
def test_unusable_settings_are_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        TurnSettings.model_validate(values)
