"""Owns `authsvc call`: calls any RPC of a running service from the shell.

Entry point: `call`.
"""

from authsvc.cli.call.command import call

__all__ = ["call"]
