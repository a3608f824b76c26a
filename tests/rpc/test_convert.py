"""The conversion between messages and domain values: lossless, and invalid values are rejected."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from authsvc.errors import FieldInvalid
from authsvc.models import calls, limits
from authsvc.models.ids import SessionId, UserId
from authsvc.models.limits import Algorithm, CheckResult, Verdict
from authsvc.models.sessions import RevokeReason, Session
from authsvc.models.tokens import InactiveReason
from authsvc.models.users import UserStatus
from authsvc.rpc import convert
from authsvc.rpc.rate_limit import messages as rate_limit_messages
from authsvc.v1 import common_pb2, rate_limit_service_pb2, session_service_pb2
from authsvc.v1.common_pb2 import ClientContext
from authsvc.v1.rate_limit_service_pb2 import Charge

SOME_ID = "0198a7c2-0000-7000-8000-0000000000ff"
NOW = datetime(2030, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)
CLIENT = calls.ClientContext("2001:db8::1", "Browser/1", "phone")


def refused(parse: Callable[..., object], *arguments: Any, **named: Any) -> str:
    """Return the path of the one field that a parser must reject."""
    with pytest.raises(FieldInvalid) as caught:
        parse(*arguments, **named)
    (violation,) = caught.value.violations
    assert violation.description
    return violation.field


# Texts


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_text_within_limit_is_unchanged(text: str) -> None:
    size = len(text.encode())
    assert convert.text(text, "f", size) == text
    if size:
        assert refused(convert.text, text, "f", size - 1) == "f"


def test_text_length_is_limited_in_bytes() -> None:
    assert convert.text("é" * 128, "f", 256)
    assert refused(convert.text, "é" * 129, "f", 256) == "f"
    assert refused(convert.text, "🚀" * 65, "f", 256) == "f"


@pytest.mark.parametrize("text", ["\0", "a\0", "a\0b"])
def test_text_with_nul_is_rejected(text: str) -> None:
    assert refused(convert.text, text, "f", 10) == "f"


def test_only_required_text_must_be_non_empty() -> None:
    assert convert.text("", "f", 10) == ""
    assert refused(convert.text, "", "f", 10, required=True) == "f"
    assert refused(convert.token, "", "f") == "f"


@given(st.text(min_size=1))
def test_any_token_is_unchanged(text: str) -> None:
    assert convert.token(text, "f") is text


# Ids


@given(st.uuids())
def test_uuid_has_one_spelling(value: UUID) -> None:
    assert convert.uuid(str(value), "f") == value
    for other in (value.hex, f"{{{value}}}", value.urn, f"{value}\n", f" {value}"):
        assert refused(convert.uuid, other, "f") == "f"


@pytest.mark.parametrize("text", ["", "x", SOME_ID.upper(), SOME_ID.replace("0", "\u0660")])
def test_invalid_ids_are_rejected_with_their_path(text: str) -> None:
    assert refused(convert.user_id, text) == "user_id"
    assert refused(convert.session_id, text) == "session_id"
    assert refused(convert.session_id, text, "except_session_id") == "except_session_id"


# Numbers


def test_cost_is_validated() -> None:
    assert [rate_limit_messages.cost(cost, "f") for cost in (0, 1, 1_000_000)] == [1, 1, 1_000_000]
    for cost in (-1, 1_000_001, 2**63 - 1, -(2**63)):
        assert refused(rate_limit_messages.cost, cost, "f") == "f"


def test_batch_size_is_validated() -> None:
    for size in (1, 1_000):
        convert.batch_size(range(size), "f")
    for size in (0, 1_001):
        assert refused(convert.batch_size, range(size), "f") == "f"


# Clients


@pytest.mark.parametrize(
    ("given_ip", "ip"),
    [
        ("", None),
        ("203.0.113.7", "203.0.113.7"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("0000:0000:0000:0000:0000:ffff:192.168.100.228", "192.168.100.228"),
        # As gateways send them: with a port, in brackets, with a zone.
        ("203.0.113.7:49152", "203.0.113.7"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("[2001:DB8::1]", "2001:db8::1"),
        ("[::ffff:203.0.113.7]:443", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%25eth0", "fe80::1"),
        ("[fe80::1%vEthernet(WSL)]:65535", "fe80::1"),
        ("::", "::"),
    ],
)
def test_ip_address_gets_canonical_form(given_ip: str, ip: str | None) -> None:
    client = convert.client_context(ClientContext(ip=given_ip, user_agent="b", device_id="d"))
    assert client == calls.ClientContext(ip, "b", "d")


@pytest.mark.parametrize(
    "text",
    [
        *("localhost", "127.1", "1.2.3.4/32", "1.2.3.04", " 1.2.3.4", "1" * 46, "1.2.3.4, 5.6.7.8"),
        *("1.2.3.4:", "1.2.3.4:x", "1.2.3.4:123456", "1.2.3.4%eth0", "[1.2.3.4]", "[1.2.3.4]:80"),
        *(
            "[2001:db8::1",
            "2001:db8::1]",
            "[2001:db8::1]x",
            "[2001:db8::1]:",
            "[]",
            "[]:443",
            ":80",
        ),
        *(
            "fe80::1%",
            "fe80::1%a\0b",
            "fe80::1%a b",
            "fe80::1%a%b",
            "[fe80::1%]:1",
            "٣.1.1.1",
            "::1%é",
        ),
        *(
            "fe80::1%" + "x" * 80,
            "unknown",
            "_hidden",
            "host:443",
            "2001:db8::1::2",
            "-",
            "\n1.2.3.4",
        ),
        *("1.2.3.4\n", "[::1]:443\n"),
    ],
)
def test_invalid_ip_addresses_are_rejected(text: str) -> None:
    assert refused(convert.client_context, ClientContext(ip=text)) == "client.ip"
    path = refused(convert.client_context, ClientContext(ip=text), "checks[3].client")
    assert path == "checks[3].client.ip"


def test_client_text_lengths_are_limited() -> None:
    convert.client_context(ClientContext(user_agent="x" * 1_024, device_id="x" * 256))
    for field, message in (
        ("client.user_agent", ClientContext(user_agent="x" * 1_025)),
        ("client.device_id", ClientContext(device_id="x" * 257)),
    ):
        assert refused(convert.client_context, message) == field


# Lists


def test_authentication_methods_are_validated() -> None:
    assert convert.authentication_methods(["pwd", "otp", "pwd"], "f") == ("pwd", "otp")
    assert convert.authentication_methods([f"m-{n}" for n in range(8)], "f")
    assert refused(convert.authentication_methods, [], "f") == "f"
    assert refused(convert.authentication_methods, ["pwd"] * 9, "f") == "f"
    for bad in ("", "PWD", "p w", "pwd\n", "x" * 33, "é"):
        assert refused(convert.authentication_methods, ["pwd", bad], "f") == "f[1]"


def test_scopes_are_validated() -> None:
    assert list(convert.scopes(["x" * 128] * 64, "f")) == ["x" * 128] * 64
    assert list(convert.scopes([], "f")) == []
    assert refused(convert.scopes, ["x"] * 65, "f") == "f"
    for bad in ("", "x" * 129, "a\0b"):
        assert refused(convert.scopes, ["x", bad], "f") == "f[1]"


def test_charges_are_validated() -> None:
    messages = [Charge(policy="a.b_c-1", key=f"k{n}", cost=n) for n in range(16)]
    expected = [limits.Charge("a.b_c-1", f"k{n}", n or 1) for n in range(16)]
    assert rate_limit_messages.charges(messages) == expected
    rate_limit_messages.charges([Charge(policy="a", key="k"), Charge(policy="b", key="k")])
    good = Charge(policy="a", key="k")
    for path, bad in (
        ("charges", []),
        ("charges", [*messages, good]),
        ("charges", [good, good]),
        ("charges[1].policy", [good, Charge(policy="A", key="k")]),
        ("charges[1].policy", [good, Charge(policy="x" * 65, key="k")]),
        ("charges[1].key", [good, Charge(policy="a")]),
        ("charges[1].cost", [good, Charge(policy="a", key="l", cost=-1)]),
    ):
        assert refused(rate_limit_messages.charges, bad) == path


# Times


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_timestamp_is_exact(time: datetime) -> None:
    message = convert.timestamp(time)
    assert message.ToDatetime(UTC) == time
    assert message.nanos % 1_000 == 0


@given(st.floats(0, 10**9))
def test_duration_is_never_shorter(seconds: float) -> None:
    message = convert.duration(seconds)
    assert 0 <= message.ToMicroseconds() - seconds * 1_000_000 < 1.5
    assert 0 <= message.nanos < 1_000_000_000


def test_whole_duration_is_exact() -> None:
    for seconds in (0, 1, 0.5, 3_600, 366 * 86_400):
        assert convert.duration(seconds).ToTimedelta() == timedelta(seconds=seconds)


# Responses


def test_every_enum_value_has_its_number() -> None:
    for reason in InactiveReason:
        number = convert.inactive_reason(reason)
        assert common_pb2.InactiveReason.Name(number) == f"INACTIVE_REASON_{reason}"
    assert convert.inactive_reason(None) == common_pb2.INACTIVE_REASON_UNSPECIFIED
    names = set(common_pb2.InactiveReason.keys()) - {"INACTIVE_REASON_UNSPECIFIED"}
    assert names == {f"INACTIVE_REASON_{reason}" for reason in InactiveReason}
    names = set(session_service_pb2.RevokeReason.keys()) - {"REVOKE_REASON_UNSPECIFIED"}
    assert names == {f"REVOKE_REASON_{reason.name}" for reason in RevokeReason}
    names = set(rate_limit_service_pb2.RateLimitAlgorithm.keys())
    names -= {"RATE_LIMIT_ALGORITHM_UNSPECIFIED"}
    assert names == {f"RATE_LIMIT_ALGORITHM_{kind.name}" for kind in Algorithm}


def _session(**changes: Any) -> Session:
    fields: dict[str, Any] = {
        "session_id": SessionId(UUID(int=1)),
        "user_id": UserId(UUID(int=2)),
        "create_time": NOW,
        "last_use_time": NOW + timedelta(1),
        "authentication_time": NOW,
        "idle_expire_time": NOW + timedelta(2),
        "absolute_expire_time": NOW + timedelta(3),
        "client": CLIENT,
        "authentication_methods": ("pwd", "otp"),
        "csrf_hash": b"\xaa" * 32,
        "refresh_counter": 7,
        "revoke_time": None,
        "revoke_reason": None,
        "user_status": UserStatus.ACTIVE,
        "user_roles": ("user",),
    }
    return Session(**(fields | changes))


def test_session_is_converted_without_secrets() -> None:
    message = convert.session_message(_session())
    assert b"\xaa" * 4 not in message.SerializeToString()
    assert [field.name for field, _ in message.ListFields()] == [
        *("session_id", "user_id", "create_time", "last_use_time", "idle_expire_time"),
        *("absolute_expire_time", "ip", "user_agent", "device_id", "authentication_methods"),
    ]
    assert message.last_use_time.ToDatetime(UTC) == NOW + timedelta(1)
    assert message.absolute_expire_time.ToDatetime(UTC) == NOW + timedelta(3)


@pytest.mark.parametrize("reason", list(RevokeReason))
def test_ended_session_includes_time_and_reason(reason: RevokeReason) -> None:
    message = convert.session_message(_session(revoke_time=NOW, revoke_reason=reason))
    assert message.revoke_time.ToDatetime(UTC) == NOW
    name = session_service_pb2.RevokeReason.Name(message.revoke_reason)
    assert name == f"REVOKE_REASON_{reason.name}"


@pytest.mark.parametrize("retry_after", [None, 0.0, 0.000_000_1, 90.5])
def test_retry_after_of_zero_differs_from_none(retry_after: float | None) -> None:
    verdict = Verdict(
        "p", "k", allowed=False, limit=5, remaining=2, retry_after=retry_after, reset_after=1.5
    )
    result = CheckResult(allowed=False, verdicts=[verdict] * 2)
    check = rate_limit_messages.check_response(result)
    assert check == rate_limit_service_pb2.CheckRateLimitResponse(
        allowed=False,
        verdicts=[
            rate_limit_service_pb2.RateLimitVerdict(
                policy="p",
                key="k",
                limit=5,
                remaining=2,
                bound=rate_limit_service_pb2.RATE_LIMIT_BOUND_REQUESTS,
                retry_after=None if retry_after is None else convert.duration(retry_after),
                reset_after=Duration(seconds=1, nanos=500_000_000),
            )
        ]
        * 2,
    )
    assert check.verdicts[0].HasField("retry_after") == (retry_after is not None)
    assert bool(check.verdicts[0].retry_after.ToNanoseconds()) == bool(retry_after)
