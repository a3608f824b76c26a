"""Verifiers of the service that tests start follow its clock, its faults and its revocations."""

import threading
import time
from collections.abc import Callable

import pytest

from authsvc.client import AsyncVerifier, Freshness, NotDecidable, TokenRejected, Verifier
from authsvc.testing import TestService
from authsvc.v1.session_service_pb2 import RevokeSessionRequest

_PATIENCE = 60.0


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _judged(verifier: Verifier | AsyncVerifier, token: str) -> str:
    """Return why a token is not accepted, or "" if it is."""
    try:
        verifier.verify(token)
    except (TokenRejected, NotDecidable) as error:
        return error.reason
    return ""


def test_revoked_token_is_rejected_from_memory(authsvc_service: TestService) -> None:
    tokens = authsvc_service.tokens(authsvc_service.user())
    with authsvc_service.verifier() as verifier, authsvc_service.client() as app:
        assert verifier.verify(tokens.access_token).user_id == tokens.user_id
        app.sessions.RevokeSession(RevokeSessionRequest(session_id=tokens.session_id))
        _until(lambda: _judged(verifier, tokens.access_token) == "SESSION_REVOKED")


def test_verifier_goes_by_moved_clock(authsvc_service: TestService) -> None:
    tokens = authsvc_service.tokens(authsvc_service.user())
    with authsvc_service.verifier() as verifier, authsvc_service.client() as app:
        assert _judged(verifier, tokens.access_token) == ""
        authsvc_service.clock.move(2 * 3_600)
        assert _judged(verifier, tokens.access_token) == "EXPIRED"
        later = authsvc_service.tokens(authsvc_service.user())
        # The stream notices that the database's clock was set, and begins anew.
        _until(lambda: _judged(verifier, later.access_token) == "")
        app.sessions.RevokeSession(RevokeSessionRequest(session_id=later.session_id))
        _until(lambda: _judged(verifier, later.access_token) == "SESSION_REVOKED")
        authsvc_service.clock.reset()
        now = authsvc_service.tokens(authsvc_service.user())
        _until(lambda: _judged(verifier, now.access_token) == "")


def test_verifier_without_stream_is_degraded_and_recovers(authsvc_service: TestService) -> None:
    tokens = authsvc_service.tokens(authsvc_service.user())
    degraded = threading.Event()

    def note(state: Freshness) -> None:
        if state.status != "fresh":
            degraded.set()

    with authsvc_service.verifier(on_degraded=note) as verifier:
        assert _judged(verifier, tokens.access_token) == ""
        with authsvc_service.faults.cut_streams():
            assert degraded.wait(_PATIENCE)
            assert _judged(verifier, tokens.access_token) == "UNUSABLE"
            # It asks instead, as calls go on.
            assert verifier.authenticate(tokens.access_token).user_id == tokens.user_id
        _until(lambda: _judged(verifier, tokens.access_token) == "")


async def test_async_verifier_runs_on_loop_of_its_test(authsvc_service: TestService) -> None:
    tokens = authsvc_service.tokens(authsvc_service.user())
    async with authsvc_service.async_verifier() as verifier:
        assert verifier.verify(tokens.access_token).user_id == tokens.user_id
    async with authsvc_service.async_verifier(audience="another") as verifier:
        with pytest.raises(TokenRejected, match="AUDIENCE_MISMATCH"):
            verifier.verify(tokens.access_token)
