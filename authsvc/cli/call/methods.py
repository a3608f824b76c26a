"""Owns the names of the RPCs that can be called from the shell."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache

from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from grpc_health.v1 import health_pb2

from authsvc.cli.output import fail
from authsvc.v1 import (
    account_service_pb2,
    admin_service_pb2,
    auth_service_pb2,
    rate_limit_service_pb2,
    session_service_pb2,
)

_FILES: tuple[FileDescriptor, ...] = (
    auth_service_pb2.DESCRIPTOR,
    account_service_pb2.DESCRIPTOR,
    session_service_pb2.DESCRIPTOR,
    rate_limit_service_pb2.DESCRIPTOR,
    admin_service_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
)


@cache
def methods() -> Mapping[str, MethodDescriptor]:
    """Return all RPCs by their short names, such as AuthService/Login."""
    return {
        f"{service.name}/{method.name}": method
        for file in _FILES
        for service in file.services_by_name.values()
        for method in service.methods
    }


def method_of(text: str) -> MethodDescriptor:
    """Return the RPC that a name means, with or without its package, or end the command."""
    name = "/".join(re.split(r"[/.]", text.strip("/"))[-2:])
    found = methods().get(name)
    if found is None or text.strip("/") not in _names(found):
        fail(f"no RPC is called {text}{_hint(name)}")
    return found


def did_you_mean(names: list[str]) -> str:
    """Return the end of a message about an unknown name."""
    return f"; did you mean {' or '.join(names)}?" if names else ""


def near(name: str, known: list[str]) -> list[str]:
    """Return up to three of the known names, the most similar first."""
    by_folded = {each.lower(): each for each in known}
    return [by_folded[each] for each in get_close_matches(name.lower(), by_folded, 3, 0.6)]


def complete_method(incomplete: str) -> list[str]:
    """Return the RPCs whose names start with a word."""
    return [name for name in methods() if name.startswith(incomplete)]


def _hint(name: str) -> str:
    names = list(methods())
    of_service = [each for each in names if each.lower().startswith(f"{name.lower()}/")]
    if of_service:
        return f"; its RPCs are {', '.join(of_service)}"
    method = name.rpartition("/")[2].lower()
    same = [each for each in names if each.rpartition("/")[2].lower() == method]
    return did_you_mean(same or near(name, names))


def _names(method: MethodDescriptor) -> set[str]:
    service = method.containing_service
    return {
        f"{owner}{mark}{method.name}"
        for owner in (service.name, service.full_name)
        for mark in ("/", ".")
    }
