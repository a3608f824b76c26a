"""Owns why a release isn't made."""


class ReleaseError(Exception):
    """A release can't be made; the message says why in one line."""
