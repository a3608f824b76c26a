"""Owns the error that stops the build of an image."""


class ImageError(Exception):
    """An image can't be built; the message says why in one line."""
