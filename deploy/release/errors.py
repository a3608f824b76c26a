"""Owns the error that stops a release."""


class ReleaseError(Exception):
    """A release can't be made; the message says why in one line."""
