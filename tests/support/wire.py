"""Protobuf's wire format by hand, for messages that no library would write."""

from collections.abc import Iterator, Sequence

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

VARINT, FIXED64, LENGTH, START_GROUP, END_GROUP, FIXED32 = range(6)
_DEEPEST = 8

Path = tuple[FieldDescriptor, ...]


def varint(value: int) -> bytes:
    """Return a number as up to ten bytes; a negative one in two's complement."""
    value %= 1 << 64
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def integer(number: int, value: int) -> bytes:
    """Return a field that holds a number."""
    return tag(number, VARINT) + varint(value)


def content(number: int, raw: bytes) -> bytes:
    """Return a field that holds a text, bytes or a message."""
    return tag(number, LENGTH) + varint(len(raw)) + raw


def groups(number: int, depth: int) -> bytes:
    """Return groups within groups."""
    return tag(number, START_GROUP) * depth + tag(number, END_GROUP) * depth


def paths(descriptor: Descriptor) -> Iterator[Path]:
    """Return the way to every field of a message and of the messages in it."""
    for field in descriptor.fields:
        yield (field,)
        if field.message_type is not None:
            for path in paths(field.message_type):
                if len(path) < _DEEPEST:
                    yield (field, *path)


def with_field(message: Message, path: Sequence[FieldDescriptor], raw: bytes) -> bytes:
    """Return a message with `raw` in place of a field, tag and all.

    Of a repeated message on the way, the first one stays.
    """
    field, *rest = path
    others = type(message)()
    others.CopyFrom(message)
    others.ClearField(field.name)
    if rest:
        held = getattr(message, field.name)
        raw = content(field.number, with_field(held[0] if field.is_repeated else held, rest, raw))
    return others.SerializeToString() + raw
