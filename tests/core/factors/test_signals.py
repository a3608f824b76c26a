"""The arguments of WebAuthn's signal methods."""

import json
from dataclasses import replace
from uuid import UUID

from authsvc.core.factors.signals import PasskeySignalling
from authsvc.models.ids import UserId
from tests.support.ceremonies import USER

ADA = replace(USER, user_id=UserId(UUID(int=255)), display_name="Ada Löv")
HANDLE = "AAAAAAAAAAAAAAAAAAAA_w"
SIGNALLING = PasskeySignalling("shop.example")


def test_passkeys_are_listed_with_details_of_their_user() -> None:
    signals = SIGNALLING.passkeys(ADA, [b"\xff\xfe", b"second"], removed=b"third")
    assert json.loads(signals.all_accepted_credentials) == {
        "rpId": "shop.example",
        "userId": HANDLE,
        "allAcceptedCredentialIds": ["__4", "c2Vjb25k"],
    }
    assert json.loads(signals.current_user_details) == {
        "rpId": "shop.example",
        "userId": HANDLE,
        "name": "ada@example.test",
        "displayName": "Ada Löv",
    }
    assert json.loads(signals.unknown_credential) == {
        "rpId": "shop.example",
        "credentialId": "dGhpcmQ",
    }
    for shown in ("__4", "Löv", "ada@", "dGhpcmQ"):
        assert shown not in repr(signals)


def test_change_of_details_says_nothing_about_passkeys() -> None:
    signals = SIGNALLING.changed_details(ADA)
    assert signals.current_user_details
    assert not signals.all_accepted_credentials + signals.unknown_credential


def test_no_passkey_of_deleted_account_is_accepted() -> None:
    signals = SIGNALLING.deleted_account(ADA.user_id)
    assert json.loads(signals.all_accepted_credentials)["allAcceptedCredentialIds"] == []
    assert not signals.current_user_details + signals.unknown_credential
