"""Owns what a handler is made of: the RPCs of one topic, on the use cases."""

from authsvc.core.use_cases import UseCases


class Topic:
    """Some RPCs of a service; its handler inherits from all of its topics."""

    def __init__(self, use: UseCases) -> None:
        self._use = use
