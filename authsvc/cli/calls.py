"""Owns how commands appear in the audit log."""

import getpass
import secrets

from authsvc.models.calls import Call


def cli_call() -> Call:
    """Return the call of whoever runs this command."""
    try:
        who = getpass.getuser()
    except (KeyError, OSError):
        who = "unknown"
    return Call(request_id=secrets.token_hex(16), caller=f"cli:{who}")
