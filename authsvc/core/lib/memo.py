"""Owns a place beside a cached value for what a caller derives from it."""


class Memo:
    """Holds what a caller derived from a cached value, None at first.

    It belongs to the cache's entry: when the value is dropped or replaced, so is the memo.
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: object = None
