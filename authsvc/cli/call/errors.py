"""Owns how a failed call is told: the status and its details, in words or as JSON."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from authsvc.cli.output import plain_text

_DETAILS = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
    error_details_pb2.QuotaFailure,
    error_details_pb2.RequestInfo,
)


def error_values(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """Return what is known of a failed call: its code, message and, if there are any, details."""
    values: dict[str, Any] = {"code": error.code().name, "message": error.details() or ""}
    for detail in _details(error):
        match detail:
            case error_details_pb2.ErrorInfo():
                values["reason"] = detail.reason
                values["metadata"] = dict(detail.metadata)
            case error_details_pb2.BadRequest():
                values["field_violations"] = [
                    {"field": each.field, "description": each.description}
                    for each in detail.field_violations
                ]
            case error_details_pb2.RetryInfo():
                values["retry_after_seconds"] = detail.retry_delay.ToMilliseconds() / 1_000
            case error_details_pb2.QuotaFailure():
                values["quota_subjects"] = [each.subject for each in detail.violations]
            case error_details_pb2.RequestInfo():
                values["request_id"] = detail.request_id
    return values


def error_text(values: dict[str, Any], *, plain: bool) -> str:
    """Return a failure as JSON if `plain`, or else in words, a line for each detail."""
    if plain:
        return json.dumps(values)
    return "\n".join(plain_text(line) for line in _lines(values))


def _lines(values: dict[str, Any]) -> Iterator[str]:
    name = " ".join(filter(None, (values["code"], values.get("reason"))))
    yield f"error: {name}: {values['message']}"
    for violation in values.get("field_violations", ()):
        yield f"  {violation['field'] or 'request'}: {violation['description']}"
    for key, value in values.get("metadata", {}).items():
        yield f"  {key.replace('_', ' ')}: {value}"
    for subject in values.get("quota_subjects", ()):
        yield f"  limit on: {subject}"
    if "retry_after_seconds" in values:
        yield f"  try again in {values['retry_after_seconds']:g} s"
    if "request_id" in values:
        yield f"  request id: {values['request_id']}"


def _details(error: grpc.aio.AioRpcError) -> Iterator[Message]:
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        # A proxy answered, and its code differs from that of the details.
        return
    for packed in status.details if status else ():
        for detail_type in _DETAILS:
            detail = detail_type()
            if packed.Is(detail.DESCRIPTOR) and packed.Unpack(detail):
                yield detail
