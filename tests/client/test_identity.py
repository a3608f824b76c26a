"""Identities: what they require."""

from datetime import UTC, datetime

import pytest

from authsvc.client.identity import Identity, PermissionMissing


def identity(*scopes: str) -> Identity:
    now = datetime(2026, 11, 27, tzinfo=UTC)
    return Identity(
        kind="user",
        subject="u",
        user_id="u",
        service="",
        session_id="s",
        roles=(),
        permissions=(),
        scopes=frozenset(scopes),
        authentication_methods=(),
        authentication_time=now,
        issue_time=now,
        expire_time=now,
        actors=(),
        audiences=("shop",),
        token_id="t",
        key_id="k",
        is_bound=False,
    )


def test_required_scopes_must_all_be_there() -> None:
    identity("read", "write").require()
    identity("read", "write").require("write", "read")
    with pytest.raises(PermissionMissing, match="missing scopes: admin pay") as caught:
        identity("read").require("admin", "read", "pay")
    assert caught.value.scopes == ("admin", "pay")


def test_identity_can_not_be_changed() -> None:
    with pytest.raises(AttributeError):
        identity().subject = "other"  # type: ignore[misc]  # that is what must not work
    assert not hasattr(identity(), "__dict__")
