"""Owns the JSON of requests and responses: it is read with helpful errors, and printed safely."""

import json
from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from authsvc.cli.call.methods import did_you_mean, near
from authsvc.cli.output import fail
from authsvc.v1 import options_pb2

_MASK = "********"


def requests_of(text: str, descriptor: Descriptor) -> list[Message]:
    """Return the requests in a text of JSON objects, one after the other, or end the command."""
    return [_message(values, descriptor) for values in _values(text)]


def response_text(message: Message, descriptor: Descriptor, *, plain: bool) -> str:
    """Return a response as JSON with all its fields: indented and without secrets, or `plain`."""
    values = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    if plain:
        return json.dumps(values)
    return json.dumps(_masked(values, descriptor), indent=2)


def has_secrets(descriptor: Descriptor, above: frozenset[str] = frozenset()) -> bool:
    """Return whether messages of this type may contain a secret."""
    inside = above | {descriptor.full_name}
    return any(
        _is_secret(field)
        or (
            field.message_type is not None
            and field.message_type.full_name not in inside
            and has_secrets(field.message_type, inside)
        )
        for field in descriptor.fields
    )


def _values(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    text = text.removeprefix("\ufeff").strip()
    while text:
        try:
            value, end = decoder.raw_decode(text)
        except json.JSONDecodeError as error:
            fail(f"the request is not JSON: {error.msg}, line {error.lineno} column {error.colno}")
        except RecursionError:
            fail("the request is not JSON: it is nested too deeply")
        except ValueError:
            fail("the request has a number with too many digits")
        yield value
        text = text[end:].lstrip()


def _message(values: Any, descriptor: Descriptor) -> Message:
    secrets: list[str] = []
    _check(values, descriptor, "", secrets)
    message: Message = GetMessageClass(descriptor)()
    try:
        json_format.ParseDict(values, message)
    except json_format.ParseError as error:
        problem = str(error)
        for secret in sorted(secrets, key=len, reverse=True):
            problem = problem.replace(secret, _MASK)
        fail(f"the request is not a {descriptor.name}: {problem}")
    return message


def _check(values: Any, descriptor: Descriptor, path: str, secrets: list[str]) -> None:
    """End the command if a name of a field or value is unknown; collect the secrets' values."""
    if not isinstance(values, dict):
        fail(f"{path.rstrip('.') or 'the request'} must be a JSON object: {{…}}")
    known = {field.name: field for field in descriptor.fields}
    by_name = {field.json_name: field for field in descriptor.fields} | known
    for name, value in values.items():
        field = by_name.get(name)
        if field is None:
            names = near(name, list(known))
            hint = did_you_mean(names) if names else f"; it has: {', '.join(known) or 'no fields'}"
            fail(f"{path}{name}: {descriptor.name} has no such field{hint}")
        items = value if field.is_repeated and isinstance(value, list) else [value]
        for item in items:
            _check_item(item, field, f"{path}{name}", secrets)


def _check_item(value: Any, field: FieldDescriptor, path: str, secrets: list[str]) -> None:
    if _is_secret(field):
        secrets.append(str(value))
    if field.enum_type is not None and isinstance(value, str):
        names = list(field.enum_type.values_by_name)
        if value not in names:
            whole = [name for name in names if name.endswith(f"_{value.upper()}")]
            hint = did_you_mean(whole or near(value, names)) or f"; it has: {', '.join(names)}"
            fail(f"{path}: {field.enum_type.name} has no value {value}{hint}")
    inner = _own_type(field)
    if value is not None and inner is not None:
        _check(value, inner, f"{path}.", secrets)


def _masked(values: Any, descriptor: Descriptor) -> Any:
    result: dict[str, Any] = {}
    for name, value in values.items():
        field = descriptor.fields_by_name[name]
        inner = _own_type(field)
        if _is_secret(field) and value:
            result[name] = _MASK
        elif inner is None:
            result[name] = value
        elif isinstance(value, list):
            result[name] = [_masked(item, inner) for item in value]
        else:
            result[name] = _masked(value, inner)
    return result


def _own_type(field: FieldDescriptor) -> Descriptor | None:
    """Return the type of a field whose values are, in JSON, objects with fields of their own."""
    inner = field.message_type
    if inner is None or inner.file.package == "google.protobuf" or inner.GetOptions().map_entry:
        return None
    return inner


def _is_secret(field: FieldDescriptor) -> bool:
    """Return whether the protos mark a field as a secret."""
    return bool(field.GetOptions().Extensions[options_pb2.secret])
