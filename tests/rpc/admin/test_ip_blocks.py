"""Blocks of addresses over mutual TLS: how they are made, lifted and listed, and what they do."""

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import RetryInfo

from authsvc.config import Settings
from authsvc.errors import TooManyAttempts
from authsvc.rpc.access import ACCESS
from authsvc.v1 import admin_service_pb2 as pb
from authsvc.v1 import rate_limit_service_pb2 as limit_pb
from authsvc.v1.auth_service_pb2 import LoginRequest
from authsvc.v1.common_pb2 import ClientContext
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.api import OWN
from tests.support.databases import until
from tests.support.probe import BLOCKED_IP, ProbeServer, failure, outcome, reason_of
from tests.support.service import Service, StartService, detail, fields_of
from tests.support.statements import Statements, on_one_connection

IP = "203.0.113.7"


async def block(service: Service, network: str, seconds: int = 0, **more: Any) -> pb.IpBlock:
    request = pb.BlockIpRequest(network=network, **more)
    if seconds:
        request.duration.FromSeconds(seconds)
    return (await service.admin().BlockIp(request)).block


async def unblock(service: Service, network: str) -> pb.UnblockIpResponse:
    return await service.admin().UnblockIp(pb.UnblockIpRequest(network=network))


async def listed(service: Service, **request: Any) -> list[str]:
    found: list[str] = []
    page = pb.ListIpBlocksRequest(**request)
    while True:
        answer = await service.admin().ListIpBlocks(page)
        found += [each.network for each in answer.blocks]
        page.page_token = answer.next_page_token
        if not page.page_token:
            return found


async def login(service: Service, ip: str, password: str = PASSWORD) -> str:
    request = LoginRequest(email=EMAIL, password=password, client=ClientContext(ip=ip))
    return await outcome(service.auth().Login(request))


async def screen(service: Service, ip: str, policy: str = "api") -> limit_pb.ScreenRequestResponse:
    request = limit_pb.ScreenRequestRequest(ip=ip, policy=policy)
    return await service.limits("edge").ScreenRequest(request)


@pytest.mark.fast
async def test_blocked_address_can_not_log_in_until_it_is_unblocked(service: Service) -> None:
    tokens = await service.new_session(ip=IP)
    made = await block(service, "203.0.113.0/24", 600, reason="case 4711")
    assert made.blocked_by == "spiffe://authsvc.test/admin"
    assert made.expire_time.ToDatetime() - made.create_time.ToDatetime() == timedelta(minutes=10)
    assert not made.automatic
    request = LoginRequest(email=EMAIL, password=PASSWORD, client=ClientContext(ip=IP))
    error = await failure(service.auth().Login(request))
    assert reason_of(error) == "IP_BLOCKED"
    assert 0 < detail(error, RetryInfo).retry_delay.seconds <= 600
    assert IP not in (error.details() or "")
    # In other forms of the same address, too.
    for form in (f"::ffff:{IP}", f"{IP}:4711", "::ffff:cb00:7107"):
        assert await login(service, form) == "IP_BLOCKED"
    assert await login(service, "203.0.112.7") == "OK"
    # Who is logged in stays so.
    await service.refresh(tokens.refresh_token)
    assert await service.judge_session(tokens.session_token, client=ClientContext(ip=IP)) == ""
    assert (await unblock(service, "203.0.113.0/24")).was_blocked
    assert await login(service, IP) == "OK"


async def test_block_without_end_says_nothing_of_a_retry(service: Service) -> None:
    await block(service, IP)
    request = LoginRequest(email=EMAIL, password=PASSWORD, client=ClientContext(ip=IP))
    error = await failure(service.auth().Login(request))
    with pytest.raises(AssertionError):
        detail(error, RetryInfo)
    answer = await screen(service, IP)
    assert answer == limit_pb.ScreenRequestResponse(reason=limit_pb.SCREEN_REASON_IP_BLOCKED)


async def test_list_pages_and_covering(service: Service) -> None:
    wanted = ["10.0.0.0/8", "10.0.0.0/16", "10.0.0.1/32", "192.0.2.0/24", "2001:db8::/32"]
    for network in reversed(wanted):
        await block(service, network.removesuffix("/32") if "." in network else network)
    assert await listed(service) == await listed(service, page_size=2) == wanted
    assert await listed(service, covering="10.0.0.1") == wanted[:3]
    assert await listed(service, covering="10.0.0.0/9") == wanted[:1]
    answer = await unblock(service, "10.0.0.1")
    assert [each.network for each in answer.remaining_blocks] == wanted[:2]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.BlockIpRequest(), "network"),
        (pb.BlockIpRequest(network="203.0.113.7/24"), "network"),
        (pb.BlockIpRequest(network="example.com"), "network"),
        (pb.BlockIpRequest(network="203.0.113.7/33"), "network"),
        (pb.BlockIpRequest(network="fe80::1%eth0"), "network"),
        (pb.BlockIpRequest(network="0.0.0.0/0"), "network"),
        (pb.BlockIpRequest(network="::ffff:0:0/96"), "network"),
        (pb.BlockIpRequest(network=IP, duration=Duration()), "duration"),
        (pb.BlockIpRequest(network=IP, duration=Duration(seconds=-60)), "duration"),
        (pb.BlockIpRequest(network=IP, duration=Duration(seconds=1 << 40)), "duration"),
        (pb.BlockIpRequest(network=IP, duration=Duration(seconds=9, nanos=-1)), "duration"),
        (pb.BlockIpRequest(network=IP, reason="a\nb"), "reason"),
        (pb.BlockIpRequest(network=IP, reason="a" * 257), "reason"),
        (pb.UnblockIpRequest(network="x"), "network"),
        (pb.ListIpBlocksRequest(covering="x"), "covering"),
        (pb.ListIpBlocksRequest(page_token="x"), "page_token"),
        (pb.ListIpBlocksRequest(page_size=-1), "page_size"),
    ],
)
async def test_invalid_field_is_named(service: Service, request_: Any, field: str) -> None:
    method = type(request_).__name__.removesuffix("Request")
    error = await failure(getattr(service.admin(), method)(request_))
    assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", [field])
    assert await listed(service) == []


def test_rpcs_that_log_in_are_screened() -> None:
    """Every RPC with a client is screened, or is one of a user who has logged in."""
    with_client = {
        method for method, rpc in OWN.items() if "client" in rpc.input_type.fields_by_name
    }
    screened = {method for method, access in ACCESS.items() if access.screened}
    assert screened <= with_client
    logged_in = {method for method in with_client if ACCESS[method].bearer} | {
        "/authsvc.v1.AuthService/RefreshTokens",
        "/authsvc.v1.SessionService/ValidateSession",
        "/authsvc.v1.SessionService/IssueSessionKey",
        "/authsvc.v1.SessionService/CreateTurnCredentials",
        "/authsvc.v1.AdminService/ImpersonateUser",
    }
    assert screened == with_client - logged_in


async def test_screened_rpc_refuses_blocked_address_before_anything_else(service: Service) -> None:
    """No other field of the request is looked at: all of them are empty."""
    await block(service, IP)
    screened = [method for method in ACCESS if ACCESS[method].screened]
    assert len(screened) == 14
    for method in screened:
        stub: Any = service.auth() if "AuthService" in method else service.sessions("issuer")
        request = GetMessageClass(OWN[method].input_type)()
        request.client.ip = IP  # type: ignore[attr-defined] # each of them has a client
        name = method.rpartition("/")[2]
        assert await outcome(getattr(stub, name)(request)) == "IP_BLOCKED", name


async def test_blocked_and_limited_requests_cost_no_statement_and_others_one(
    start_service: StartService, live_settings: Settings, statements: Statements
) -> None:
    service = await start_service(on_one_connection(live_settings))
    await block(service, "192.0.2.1")
    blocks = service.app._parts.block_list

    async def is_known() -> bool:
        return blocks.is_fresh() and blocks._blocks.end_of("192.0.2.1") > 0

    await until(is_known)
    await statements.take(service)
    for _ in range(3):
        assert (await screen(service, "192.0.2.1")).reason == limit_pb.SCREEN_REASON_IP_BLOCKED
        assert await login(service, "192.0.2.1") == "IP_BLOCKED"
    assert await statements.take(service) == []
    for _ in range(6):
        await screen(service, IP, "login")
        assert len(await statements.take(service)) == 1
    await until(is_known)
    answer = await screen(service, IP, "login")
    assert answer.reason == limit_pb.SCREEN_REASON_RATE_LIMITED
    assert answer.retry_after.ToMicroseconds() > 0


async def test_own_refusals_by_address_lead_to_a_block(service: Service) -> None:
    """Five wrong passwords of a client are heard; of those after that, the eleventh blocks it."""
    await service.register()
    assert [await login(service, IP, "Wrong password 1") for _ in range(5)] == [
        "CREDENTIALS_INVALID"
    ] * 5
    answers = [await login(service, IP) for _ in range(11)]
    assert answers == ["TOO_MANY_ATTEMPTS"] * 11
    assert await login(service, IP) == "IP_BLOCKED"
    (found,) = (await service.admin().ListIpBlocks(pb.ListIpBlocksRequest())).blocks
    assert (found.network, found.automatic, found.blocked_by) == (f"{IP}/32", True, "system")
    assert (await screen(service, IP)).reason == limit_pb.SCREEN_REASON_IP_BLOCKED


async def test_owner_is_not_blocked_for_attacks_of_strangers_on_the_account(
    service: Service,
) -> None:
    await service.register()
    for n in range(20):
        assert await login(service, f"198.51.100.{n}", "Wrong password 1") == "CREDENTIALS_INVALID"
    # The account's limit is used up; that is not the fault of its owner's address.
    assert [await login(service, IP) for _ in range(15)] == ["TOO_MANY_ATTEMPTS"] * 15
    await service.app._parts.violations.flush()
    assert await listed(service) == []


async def test_block_is_known_to_another_replica(
    start_service: StartService, live_settings: Settings
) -> None:
    here, there = [await start_service(live_settings) for _ in range(2)]
    blocks = there.app._parts.block_list

    async def is_fresh() -> bool:
        return blocks.is_fresh()

    await until(is_fresh)
    await block(here, IP)

    async def is_known() -> bool:
        return blocks._blocks.end_of(IP) > 0

    await until(is_known)
    assert await login(there, IP) == "IP_BLOCKED"


async def test_settings_of_blocks_are_reloaded(service: Service) -> None:
    settings = service.settings
    await block(service, IP)
    allowing = settings.blocks.model_copy(update={"allow": frozenset({IP})})
    service.app.reload(settings.model_copy(update={"blocks": allowing}))
    assert await login(service, IP) == "CREDENTIALS_INVALID"
    service.app.reload(settings)
    assert await login(service, IP) == "IP_BLOCKED"


async def test_interceptor_notes_addresses_of_refusals(probe: ProbeServer) -> None:
    async def refuse(request: Any) -> None:
        raise TooManyAttempts(1, "login", request.email or None)

    probe.probe.answer = refuse
    for ip in ("", IP):
        assert await outcome(probe.login(email=ip)) == "TOO_MANY_ATTEMPTS"
    assert probe.probe.refused_ips == [IP]
    client = ClientContext(ip=BLOCKED_IP)
    assert await outcome(probe.login(client=client)) == "IP_BLOCKED"
