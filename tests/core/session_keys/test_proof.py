"""What a caller has to show for a session."""

import pytest

from authsvc.core.session_keys.proof import SessionProof, prove
from authsvc.errors import Reason, Unauthenticated
from authsvc.models.calls import ClientContext
from authsvc.models.sessions import RevokeReason
from tests.support.sessions import CALL, CLIENT, Replica, World


async def _refusal(replica: Replica, proof: SessionProof) -> tuple[Reason, str]:
    with pytest.raises(Unauthenticated) as refused:
        await prove(replica.sessions.validation, proof)
    return refused.value.reason, refused.value.metadata.get("cause", "")


async def test_session_is_read_from_the_database_not_the_cache(world: World) -> None:
    here, there = world.replica(), world.replica()
    tokens = await world.open(here)
    proof = SessionProof(tokens.session_token, CLIENT, tokens.csrf_token)
    assert (await prove(there.sessions.validation, proof)).user_id == tokens.user_id
    # The other replica isn't notified, and its cache still says that the session is active.
    await here.sessions.ending.revoke(CALL, tokens.session_id)
    assert (await there.validate(tokens.session_token)).active
    assert await _refusal(there, proof) == (Reason.SESSION_INVALID, "SESSION_REVOKED")
    row = await world.row(tokens.session_id)
    assert row["revoke_reason"] == RevokeReason.REVOKED


async def test_mismatches_are_refused(world: World) -> None:
    replica = world.replica(ip_binding="exact", user_agent_binding=True)
    one, other = [await world.open(replica) for _ in range(2)]
    proof = SessionProof(one.session_token, CLIENT, other.csrf_token)
    assert await _refusal(replica, proof) == (Reason.SESSION_INVALID, "CSRF_TOKEN")
    for client in (ClientContext("192.0.2.2", "Browser/1"), ClientContext("192.0.2.1", "Other/1")):
        elsewhere = SessionProof(one.session_token, client, one.csrf_token)
        assert await _refusal(replica, elsewhere) == (Reason.SESSION_BINDING_MISMATCH, "")
    unknown = one.session_token[:8]
    assert await _refusal(replica, SessionProof(unknown)) == (Reason.SESSION_INVALID, "MALFORMED")
    await prove(replica.sessions.validation, SessionProof(one.session_token, CLIENT))


def test_secrets_are_not_printed() -> None:
    assert "secret" not in repr(SessionProof("secret-1", CLIENT, "secret-2"))
