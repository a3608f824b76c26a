"""The API as its descriptors describe it: its modules, RPCs and fields."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

import authsvc.v1
from authsvc.v1 import options_pb2


def modules() -> Iterator[Any]:
    """Yield every module of messages in authsvc.v1."""
    for module in pkgutil.iter_modules(authsvc.v1.__path__):
        if module.name.endswith("_pb2"):
            yield importlib.import_module(f"authsvc.v1.{module.name}")


def methods_of(*files: Any) -> dict[str, MethodDescriptor]:
    """Return the RPCs of `files` by their full names."""
    return {
        f"/{service.full_name}/{method.name}": method
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


OWN = methods_of(*modules())


def fields() -> Iterator[FieldDescriptor]:
    """Yield every field of every message."""
    for module in modules():
        for message in module.DESCRIPTOR.message_types_by_name.values():
            yield from message.fields


def is_secret(field: FieldDescriptor) -> bool:
    """Return whether the field is marked as a secret."""
    return bool(field.GetOptions().Extensions[options_pb2.secret])


def secrets_in(message: Any) -> Iterator[tuple[str, bytes]]:
    """Yield the name and value of everything in the message that is marked as a secret."""
    for field, value in message.ListFields():
        for each in value if field.is_repeated else [value]:
            if field.message_type is not None:
                yield from secrets_in(each)
            elif is_secret(field):
                yield field.full_name, each if isinstance(each, bytes) else each.encode()
