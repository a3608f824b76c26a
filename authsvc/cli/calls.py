"""Owns the caller's identity of commands in the audit log."""

import getpass
import secrets

from authsvc.models.calls import Call


def cli_call() -> Call:
    """Return a call by the operating system user who runs this command."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return Call(request_id=secrets.token_hex(16), caller=f"cli:{user}")
