"""Owns the base class of a handler's topics."""

from authsvc.core.use_cases import UseCases


class Topic:
    """The RPCs of a service about one topic; its handler inherits from all of its topics."""

    def __init__(self, use: UseCases) -> None:
        self._use = use
