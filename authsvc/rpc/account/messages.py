"""Owns the messages of an account and of signals, and the validation of its display name."""

import unicodedata

from authsvc.errors import FieldInvalid
from authsvc.models.factors import PasskeySignals
from authsvc.models.users import User
from authsvc.rpc import convert
from authsvc.v1 import account_service_pb2 as pb

_MAX_NAME = 256
# Control characters and line separators: code that shows or logs a name expects a single line.
_UNPRINTABLE = frozenset({"Cc", "Zl", "Zp"})


def display_name(value: str, field: str = "display_name") -> str:
    """Return a user's name: at most 256 bytes, without control characters and line breaks."""
    convert.text(value, field, _MAX_NAME)
    if any(unicodedata.category(character) in _UNPRINTABLE for character in value):
        raise FieldInvalid(field, "must not contain control characters or line breaks")
    return value


def passkey_signals(signals: PasskeySignals) -> pb.PasskeySignals:
    """Return what to tell the browser about the user's passkeys, as a message."""
    return pb.PasskeySignals(
        all_accepted_credentials_json=signals.all_accepted_credentials,
        current_user_details_json=signals.current_user_details,
        unknown_credential_json=signals.unknown_credential,
    )


def account_message(user: User) -> pb.Account:
    """Return an account as a message for its user."""
    verified, login = user.email_verify_time, user.last_login_time
    return pb.Account(
        user_id=str(user.user_id),
        email=user.email,
        display_name=user.display_name,
        roles=user.roles,
        create_time=convert.timestamp(user.create_time),
        email_verify_time=None if verified is None else convert.timestamp(verified),
        has_second_factor=user.has_second_factor,
        last_login_time=None if login is None else convert.timestamp(login),
    )
