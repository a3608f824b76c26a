"""The contract as a whole: protos, access table, reasons and code say the same."""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor, MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from authsvc.app.server import SERVICES
from authsvc.errors import (
    FieldInvalid,
    IpBlocked,
    Overloaded,
    ProviderMisconfigured,
    ProviderUnavailable,
    Reason,
    ServiceError,
    ServiceStopping,
    StoreUnavailable,
    TooManyAttempts,
    redirect_not_allowed,
    request_id_reused,
)
from authsvc.models.calls import Role
from authsvc.models.limits import Algorithm
from authsvc.models.sessions import RevokeReason
from authsvc.models.signing import KeyState
from authsvc.models.tokens import InactiveReason
from authsvc.rpc.access import ACCESS
from authsvc.rpc.status import CODES, to_status
from authsvc.v1 import (
    admin_service_pb2,
    common_pb2,
    error_reason_pb2,
    rate_limit_service_pb2,
    session_service_pb2,
)
from tests.support.api import OWN, fields, is_secret, methods_of
from tests.support.certificates import Authority
from tests.support.probe import STRANGER, outcome
from tests.support.service import Service

PROTOS = Path(__file__).parent.parent / "protos" / "authsvc" / "v1"
NAMELESS = "nameless"
CALLERS = [*(role.value for role in Role), STRANGER, NAMELESS]


SERVED = OWN | methods_of(health_pb2, reflection_pb2)
SERVED |= {
    name.replace("v1alpha", "v1"): method for name, method in SERVED.items() if "v1alpha" in name
}


@dataclass(frozen=True)
class Documented:
    """What a proto's comment says of an RPC."""

    comment: str

    @property
    def roles(self) -> set[str]:
        return self._named("Roles")

    @property
    def reasons(self) -> set[str]:
        return self._named("Reasons")

    def _named(self, heading: str) -> set[str]:
        found = re.findall(rf"{heading}: ([\w, ]+)\.", self.comment)
        assert len(found) <= 1, self.comment
        return set(found[0].split(", ")) if found else set()


def commented(file: Path, pattern: str) -> dict[str, str]:
    """Return the comments before the lines that match `pattern`, by the name that it finds."""
    comments, block = {}, ""
    for line in file.read_text().splitlines():
        text = line.strip()
        if text.startswith("//"):
            block += " " + text.removeprefix("//").strip()
        elif match := re.match(pattern, text):
            comments[match[1]] = block.strip()
            block = ""
        else:
            block = ""
    return comments


def documentation() -> dict[str, Documented]:
    found = {}
    for file in PROTOS.glob("*.proto"):
        [*services] = re.findall(r"^service (\w+)", file.read_text(), re.MULTILINE)
        assert len(services) <= 1, "one file per service"
        for rpc, comment in commented(file, r"rpc (\w+)\(").items():
            found[f"/authsvc.v1.{services[0]}/{rpc}"] = Documented(comment)
    return found


DOCUMENTED = documentation()


def test_every_rpc_is_documented() -> None:
    assert len(OWN) > 20
    assert set(DOCUMENTED) == set(OWN)


def test_access_table_matches_rpcs() -> None:
    assert set(ACCESS) == set(SERVED)


def test_every_service_is_registered() -> None:
    assert set(SERVICES) == {name.split("/")[1] for name in OWN}


@pytest.mark.parametrize("method", OWN)
def test_roles_match_documentation(method: str) -> None:
    assert {role.value for role in ACCESS[method].roles} == DOCUMENTED[method].roles


@pytest.mark.parametrize("method", OWN)
def test_documented_reasons_match_request_and_access(method: str) -> None:
    reasons = DOCUMENTED[method].reasons
    assert reasons <= set(Reason)
    assert ("FIELD_INVALID" in reasons) == bool(OWN[method].input_type.fields)
    takes_a_bearer = "link_access_token" in OWN[method].input_type.fields_by_name
    access = ACCESS[method]
    assert ("BEARER_INVALID" in reasons) == (access.bearer or takes_a_bearer)
    assert ("IMPERSONATION_NOT_ALLOWED" in reasons) == (
        takes_a_bearer
        or (access.bearer and not access.impersonated)
        or method
        in {
            "/authsvc.v1.AdminService/ImpersonateUser",
            "/authsvc.v1.SessionService/IssueSessionKey",
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", SERVED)
def test_only_streams_are_long_lived(method: str) -> None:
    # Only a stream may be without an end, and then its handler bounds how many there are.
    rpc = SERVED[method]
    assert not ACCESS[method].long_lived or rpc.server_streaming or rpc.client_streaming


@pytest.mark.fast
@pytest.mark.parametrize("caller", CALLERS)
async def test_every_caller_reaches_only_allowed_rpcs(
    caller: str, service: Service, authority: Authority
) -> None:
    if caller == NAMELESS:
        channel = service.clients.open(authority.issue(common_name=Role.APP))
    else:
        channel = service.clients.channel(caller)
    allowed, wrong = set(), {}
    for method, descriptor in SERVED.items():
        ended = await outcome(empty_call(channel, method, descriptor))
        if ended != "CALLER_NOT_ALLOWED":
            allowed.add(method)
            if ended not in documented_outcomes(method):
                wrong[method] = ended
    assert allowed == allowed_to(caller)
    assert not wrong


def allowed_to(caller: str) -> set[str]:
    """Return the RPCs that a caller may use who holds this one role, or none."""
    return {
        method
        for method, access in ACCESS.items()
        if access.any_certificate or caller in {role.value for role in access.roles}
    }


def documented_outcomes(method: str) -> set[str]:
    """Return how an empty call of an allowed caller may end."""
    return {"OK", *DOCUMENTED[method].reasons} if method in DOCUMENTED else {"OK"}


async def empty_call(channel: Any, method: str, descriptor: MethodDescriptor) -> None:
    """Call with an empty message, or none on a stream, and take the first response if any."""
    sends = "stream" if descriptor.client_streaming else "unary"
    receives = "stream" if descriptor.server_streaming else "unary"
    stub = getattr(channel, f"{sends}_{receives}")(method)
    call = stub() if descriptor.client_streaming else stub(b"")
    if descriptor.client_streaming:
        # A call that was refused already can't be closed; its status is asked for below.
        with contextlib.suppress(grpc.aio.InternalError):
            await call.done_writing()
    if descriptor.server_streaming:
        await call.read()
        call.cancel()
    else:
        await call


def names(enum: EnumDescriptor, prefix: str) -> set[str]:
    """Return the names of an enum's values without their prefix and the one that is never sent."""
    found = {value.name for value in enum.values}
    assert all(name.startswith(prefix) for name in found)
    return {name.removeprefix(prefix) for name in found} - {"UNSPECIFIED"}


# The service doesn't know it: verifiers raise it.
ONLY_IN_CLIENTS = {"CURSOR_NOT_REACHED"}


@pytest.mark.parametrize(
    ("model", "enum", "prefix"),
    [
        (Reason, error_reason_pb2.ErrorReason, "ERROR_REASON_"),
        (InactiveReason, common_pb2.InactiveReason, "INACTIVE_REASON_"),
        (RevokeReason, session_service_pb2.RevokeReason, "REVOKE_REASON_"),
        (KeyState, admin_service_pb2.SigningKeyState, "SIGNING_KEY_STATE_"),
        (Algorithm, rate_limit_service_pb2.RateLimitAlgorithm, "RATE_LIMIT_ALGORITHM_"),
    ],
)
def test_enums_match_protos(model: Any, enum: Any, prefix: str) -> None:
    assert {member.name for member in model} == names(enum.DESCRIPTOR, prefix) - ONLY_IN_CLIENTS


def test_every_reason_has_a_code() -> None:
    assert set(CODES) == set(Reason)
    assert all(reason.name == reason.value for reason in Reason)


ERRORS: Mapping[Reason, ServiceError] = {
    Reason.FIELD_INVALID: FieldInvalid("email", "is empty"),
    Reason.PASSWORD_WEAK: FieldInvalid.weak_password("password", ["too short"]),
    Reason.EMAIL_INVALID: FieldInvalid("email", "is none", reason=Reason.EMAIL_INVALID),
    Reason.TOO_MANY_ATTEMPTS: TooManyAttempts(1),
    Reason.IP_BLOCKED: IpBlocked(1.0),
    Reason.OVERLOADED: Overloaded(),
    Reason.STORE_UNAVAILABLE: StoreUnavailable(),
    Reason.REDIRECT_NOT_ALLOWED: redirect_not_allowed(),
    Reason.REQUEST_ID_REUSED: request_id_reused(),
    Reason.PROVIDER_UNAVAILABLE: ProviderUnavailable(),
    Reason.PROVIDER_MISCONFIGURED: ProviderMisconfigured(),
    Reason.SERVICE_STOPPING: ServiceStopping(),
}


@pytest.mark.parametrize("reason", Reason)
def test_reasons_are_documented_with_code_and_details(reason: Reason) -> None:
    comments = commented(PROTOS / "error_reason.proto", r"ERROR_REASON_(\w+) = \d+;")
    comment = comments[reason.value]
    assert comment.startswith(f"{CODES[reason].name}. ")
    assert re.search(r"[Rr]etry|Ask the user|The error says nothing else", comment)
    mentioned = set(re.findall(r"google\.rpc\.(\w+)", comment))
    error = ERRORS.get(reason)
    sent = {
        packed.TypeName().removeprefix("google.rpc.")
        for packed in (to_status(error, "r").details if error else ())
    }
    assert mentioned == sent - {"ErrorInfo", "RequestInfo"}


SECRET = re.compile(r"password|token|secret|code|assertion")
HARMLESS = {"page_token", "next_page_token", "token_id"}
ALSO_SECRET = {
    "api_key",
    "base64_signer_key",
    "chunk",
    "credential_json",
    "otpauth_uri",
    "set_cookie",
    "state",
}


@pytest.mark.parametrize("field", [field.full_name for field in fields()])
def test_secret_fields_are_marked(field: str) -> None:
    [found] = [candidate for candidate in fields() if candidate.full_name == field]
    secret = bool(SECRET.search(found.name)) and found.name not in HARMLESS
    holds_text = found.cpp_type == FieldDescriptor.CPPTYPE_STRING
    assert is_secret(found) == (holds_text and (secret or found.name in ALSO_SECRET))
