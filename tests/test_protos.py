"""The protos serve the generators of every language, and say which calls may be repeated."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FieldOptions, FileDescriptorProto, MethodOptions
from google.protobuf.message import Message

from authsvc.rpc.access import ACCESS
from authsvc.v1 import options_pb2
from tests.support.api import OWN, modules

ROOT = Path(__file__).parent.parent
SERVICE_CONFIG = ROOT / "docs/clients/service-config.json"
FILES = {module.DESCRIPTOR.name: module.DESCRIPTOR for module in modules()}

FILE_OPTIONS = {
    "csharp_namespace": "Authsvc.V1",
    "go_package": "authsvc/v1;authsvcv1",
    "java_multiple_files": True,
    "java_package": "authsvc.v1",
    "objc_class_prefix": "ASV",
    "php_namespace": r"Authsvc\V1",
    "ruby_package": "Authsvc::V1",
}
# protoc 3.15 knows these; many of the others are younger.
KNOWN_OPTIONS = {
    "FileOptions": set(FILE_OPTIONS),
    "MethodOptions": {"deprecated", "idempotency_level"},
    "FieldOptions": {"deprecated", "secret"},
    "EnumValueOptions": {"deprecated"},
}
LANGUAGES = {"go", "java", "typescript", "rust", "csharp"}

# These change only counts, so they are logged like questions; but each repetition counts again.
COUNTED = {
    "/authsvc.v1.AuthService/ValidateApiKey",
    "/authsvc.v1.RateLimitService/BatchCheckRateLimits",
    "/authsvc.v1.RateLimitService/CheckRateLimit",
    "/authsvc.v1.RateLimitService/ScreenRequest",
}
LEVELS = {method: rpc.GetOptions().idempotency_level for method, rpc in OWN.items()}
REPEATABLE = {method for method, level in LEVELS.items() if level}


@pytest.mark.parametrize("file", FILES.values(), ids=list(FILES))
def test_files_have_options_for_every_language(file: FileDescriptor) -> None:
    options = {option.name: value for option, value in file.GetOptions().ListFields()}
    assert options == FILE_OPTIONS


@pytest.mark.parametrize("file", FILES.values(), ids=list(FILES))
def test_files_use_nothing_younger_than_protoc_3_15(file: FileDescriptor) -> None:
    described = FileDescriptorProto()
    file.CopyToProto(described)
    assert described.syntax == "proto3"
    for options in options_in(described):
        names = {field.name for field, _ in options.ListFields()}
        assert names <= KNOWN_OPTIONS[options.DESCRIPTOR.name]


def options_in(described: Message) -> Iterator[Message]:
    """Yield all options in a descriptor."""
    for field, value in described.ListFields():
        if field.message_type is not None:
            for each in value if field.is_repeated else [value]:
                if field.name == "options":
                    yield each
                else:
                    yield from options_in(each)


def test_mark_of_secrets_is_option_in_private_range() -> None:
    extension = options_pb2.secret
    assert extension.full_name == "authsvc.v1.secret"
    assert extension.containing_type is FieldOptions.DESCRIPTOR
    assert 50_000 <= extension.number <= 99_999


def test_generation_needs_only_local_plugins() -> None:
    template = yaml.safe_load((ROOT / "protos/buf.gen.yaml").read_text())
    assert all(plugin.keys() & {"local", "protoc_builtin"} for plugin in template["plugins"])
    assert {Path(plugin["out"]).name for plugin in template["plugins"]} == LANGUAGES


def test_module_of_buf_has_a_name() -> None:
    module = yaml.safe_load((ROOT / "protos/buf.yaml").read_text())
    assert re.fullmatch(r"[\w.]+/\w+/\w+", module["name"])


def test_questions_say_that_they_may_be_repeated() -> None:
    questions = {method for method in OWN if ACCESS[method].read_only}
    assert questions - REPEATABLE == COUNTED
    safe = {method for method in OWN if LEVELS[method] == MethodOptions.NO_SIDE_EFFECTS}
    assert safe <= questions


def test_service_config_repeats_exactly_what_may_be_repeated() -> None:
    config = json.loads(SERVICE_CONFIG.read_text())
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    [retried] = config["methodConfig"]
    assert retried["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    names = [f"/{name['service']}/{name['method']}" for name in retried["name"]]
    assert names == sorted(REPEATABLE)


async def test_grpc_repeats_only_calls_in_service_config() -> None:
    config = json.loads(SERVICE_CONFIG.read_text())
    attempts: Counter[str] = Counter()
    # With the bound on retries, which all RPCs share, the last ones would not be repeated.
    del config["retryThrottling"]

    async def refuse(_: bytes, context: Any) -> bytes:
        raise AssertionError(await context.abort(grpc.StatusCode.UNAVAILABLE))

    class Refusing(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            attempts[details.method] += 1
            return grpc.unary_unary_rpc_method_handler(refuse)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Refusing()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    options = [("grpc.service_config", json.dumps(config))]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        stubs: list[Any] = [channel.unary_unary(method) for method in OWN]
        calls = [stub(b"") for stub in stubs]
        ends = await asyncio.gather(*(call.code() for call in calls))
    await server.stop(None)
    assert set(ends) == {grpc.StatusCode.UNAVAILABLE}
    most = config["methodConfig"][0]["retryPolicy"]["maxAttempts"]
    assert attempts == {method: most if method in REPEATABLE else 1 for method in OWN}
