"""Owns how guards refuse a request, in gRPC and in HTTP, and what a caller learns of the reason."""

import json
import logging
from collections.abc import Collection
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from authsvc.client.errors import NotDecidable, TokenRejected

_log = logging.getLogger("authsvc.client")
_RETRY_AFTER_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer to a request that is refused.

    Attributes:
        code: The status of gRPC.
        status: The status of HTTP.
        reason: The reason in ErrorInfo.
        message: The reason in a sentence.
        challenge: The WWW-Authenticate header, "" for none (RFC 6750, section 3).
        close_code: With what an open web socket ends.
        scopes: Those that are required.
    """

    code: grpc.StatusCode
    status: int
    reason: str
    message: str
    challenge: str
    close_code: int
    scopes: Collection[str] = ()

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may be accepted later."""
        return self.code is grpc.StatusCode.UNAVAILABLE

    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        """Return the details of the status as trailing metadata."""
        info = ErrorInfo(reason=self.reason, domain="authsvc")
        if self.scopes:
            info.metadata["scopes"] = " ".join(self.scopes)
        status = Status(code=self.code.value[0], message=self.message)
        status.details.append(_packed(info))
        if self.is_temporary:
            delay = Duration(seconds=_RETRY_AFTER_SECONDS)
            status.details.append(_packed(RetryInfo(retry_delay=delay)))
        return (("grpc-status-details-bin", status.SerializeToString()),)

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers of an HTTP response."""
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(self.body()))),
            ("cache-control", "no-store"),
        ]
        if self.challenge:
            headers.append(("www-authenticate", self.challenge))
        if self.is_temporary:
            headers.append(("retry-after", str(_RETRY_AFTER_SECONDS)))
        return headers

    def body(self) -> bytes:
        """Return the body of an HTTP response."""
        return json.dumps({"reason": self.reason, "message": self.message}).encode()


class Refused(Exception):
    """A request must not reach the handler."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


def _unauthenticated(message: str, challenge: str) -> Refusal:
    return Refusal(grpc.StatusCode.UNAUTHENTICATED, 401, "BEARER_INVALID", message, challenge, 4401)


NO_CREDENTIALS = _unauthenticated("An access token is required.", "Bearer")
INVALID_TOKEN = _unauthenticated(
    "The access token is not accepted.", 'Bearer error="invalid_token"'
)
INVALID_SESSION = _unauthenticated("The session is not accepted.", "Bearer")
NOT_DECIDABLE = Refusal(
    grpc.StatusCode.UNAVAILABLE,
    503,
    "NOT_DECIDABLE",
    "It is not known now whether the credentials are accepted; try again.",
    "",
    1013,
)
CSRF_INVALID = Refusal(
    grpc.StatusCode.PERMISSION_DENIED,
    403,
    "CSRF_INVALID",
    "The anti-forgery token is missing or not that of the session.",
    "",
    4403,
)
ORIGIN_NOT_ALLOWED = Refusal(
    grpc.StatusCode.PERMISSION_DENIED,
    403,
    "ORIGIN_NOT_ALLOWED",
    "Web sockets with a cookie are not accepted from this origin.",
    "",
    4403,
)
PATH_INVALID = Refusal(
    grpc.StatusCode.INVALID_ARGUMENT, 400, "PATH_INVALID", "The path is ambiguous.", "", 4400
)


def scope_missing(scopes: Collection[str]) -> Refusal:
    """Return the refusal of credentials that lack one of these scopes."""
    return Refusal(
        grpc.StatusCode.PERMISSION_DENIED,
        403,
        "SCOPE_MISSING",
        "The credentials lack a scope that is required.",
        f'Bearer error="insufficient_scope", scope="{" ".join(scopes)}"',
        4403,
        scopes,
    )


def refusal_of(error: TokenRejected | NotDecidable, scopes: Collection[str]) -> Refusal:
    """Return the refusal of a token; why it is refused goes to the log, not to the caller."""
    _log.debug("refused a token: %s", error.reason)
    if isinstance(error, NotDecidable):
        return NOT_DECIDABLE
    return scope_missing(scopes) if error.reason == "SCOPE_MISSING" else INVALID_TOKEN


def _packed(detail: ErrorInfo | RetryInfo) -> Any:
    packed = Any()
    packed.Pack(detail)
    return packed
