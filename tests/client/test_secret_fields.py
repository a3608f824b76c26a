"""No object of the client shows a token when it is printed."""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

import authsvc.client

SECRET = "a-token-that-nobody-may-see"
NAMES = {"token", "access_token"}


def holders() -> Iterator[tuple[Any, list[str]]]:
    """Yield each class of the client with a field for a token, and all of its fields."""
    for module in pkgutil.walk_packages(authsvc.client.__path__, "authsvc.client."):
        loaded = importlib.import_module(module.name)
        for _, each in inspect.getmembers(loaded, inspect.isclass):
            if dataclasses.is_dataclass(each):
                fields = [field.name for field in dataclasses.fields(each)]
            else:
                fields = list(getattr(each, "_fields", ()))
            if each.__module__ == module.name and NAMES.intersection(fields):
                yield each, fields


def test_tokens_are_not_printed() -> None:
    found = list(holders())
    assert {kind.__name__ for kind, _ in found} >= {"_Held", "_Presented"}
    for kind, fields in found:
        values = {name: SECRET if name in NAMES else None for name in fields}
        assert SECRET not in repr(kind(**values)), kind
