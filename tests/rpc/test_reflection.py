"""Reflection: both versions, for observers only, and only if it is enabled."""

from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2 as pb

from authsvc.app.server import SERVICES
from authsvc.config import Settings
from authsvc.models.calls import Role
from tests.support.probe import STRANGER, ProbeServer, StartProbe, failure, reason_of, with_changes

VERSIONS = ["v1", "v1alpha"]
OTHERS = [role for role in Role if role is not Role.OBSERVER]


def reflection(probe: ProbeServer, version: str, caller: str = "observer") -> Any:
    """Return the stub of the reflection method."""
    method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    return probe.clients.channel(caller).stream_stream(
        method,
        request_serializer=pb.ServerReflectionRequest.SerializeToString,
        response_deserializer=pb.ServerReflectionResponse.FromString,
    )


def ask(probe: ProbeServer, version: str, *requests: pb.ServerReflectionRequest) -> Any:
    return reflection(probe, version)(iter(requests))


async def refusal(probe: ProbeServer, version: str, caller: str) -> grpc.aio.AioRpcError:
    """Return the status of a stream that is rejected on opening.

    Nothing is written, as grpc.aio's client reports INTERNAL when the status arrives between its
    own metadata and its first message.
    """
    return await failure(reflection(probe, version, caller)().read())


@pytest.mark.parametrize("version", VERSIONS)
async def test_services_are_listed(version: str, probe: ProbeServer) -> None:
    request = pb.ServerReflectionRequest(list_services="*")
    [response] = [found async for found in ask(probe, version, request)]
    names = {service.name for service in response.list_services_response.service}
    assert names >= {*SERVICES, "grpc.health.v1.Health"}


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_listed_service_can_be_described(version: str, probe: ProbeServer) -> None:
    listing = pb.ServerReflectionRequest(list_services="*")
    [listed] = [found async for found in ask(probe, version, listing)]
    names = [service.name for service in listed.list_services_response.service]
    requests = [pb.ServerReflectionRequest(file_containing_symbol=name) for name in names]
    responses = [found async for found in ask(probe, version, *requests)]
    for name, response in zip(names, responses, strict=True):
        files = [
            FileDescriptorProto.FromString(file)
            for file in response.file_descriptor_response.file_descriptor_proto
        ]
        described = {f"{file.package}.{service.name}" for file in files for service in file.service}
        assert name in described


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("caller", [*OTHERS, STRANGER])
async def test_other_callers_are_rejected(version: str, caller: str, probe: ProbeServer) -> None:
    assert reason_of(await refusal(probe, version, caller)) == "CALLER_NOT_ALLOWED"


@pytest.mark.parametrize("version", VERSIONS)
async def test_reflection_can_be_disabled(
    version: str, start_probe: StartProbe, settings: Settings
) -> None:
    probe = await start_probe(with_changes(settings, "grpc", reflection=False))
    refused = await refusal(probe, version, "observer")
    assert refused.code() is grpc.StatusCode.UNIMPLEMENTED
