"""Valid requests that define policies, overrides and roles."""

from collections.abc import Awaitable, Callable, Mapping

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from authsvc.v1 import admin_service_pb2 as pb
from authsvc.v1 import rate_limit_service_pb2 as limit_pb
from authsvc.v1.common_pb2 import Tokens
from tests.support.service import Service

VALID: Mapping[str, Callable[[Tokens], Message]] = {
    "AdminService/PutPolicy": lambda _: pb.PutPolicyRequest(
        policy=limit_pb.Policy(
            name="hostile",
            algorithm=limit_pb.RATE_LIMIT_ALGORITHM_TOKEN_BUCKET,
            requests=2,
            window=Duration(seconds=60),
            burst=1,
            durable=True,
            unlimited=True,
            shadow=True,
        )
    ),
    "AdminService/PutPolicyOverride": lambda _: pb.PutPolicyOverrideRequest(
        override=pb.PolicyOverride(
            policy="upload",
            key="hostile",
            effect=pb.OVERRIDE_EFFECT_NUMBERS,
            requests=2,
            window=Duration(seconds=60),
            burst=1,
            expire_time=Timestamp(seconds=4_000_000_000),
            note="why",
        )
    ),
    "AdminService/ListPolicyOverrides": lambda _: pb.ListPolicyOverridesRequest(
        policy="upload", page_size=1
    ),
    "AdminService/PutRole": lambda _: pb.PutRoleRequest(
        role=pb.UserRole(
            name="hostile",
            permissions=["a", "b"],
            requires_second_factor=True,
            idle_lifetime=Duration(seconds=60),
            absolute_lifetime=Duration(seconds=60),
            access_token_lifetime=Duration(seconds=60),
        )
    ),
    "AdminService/ListRoles": lambda _: pb.ListRolesRequest(page_size=1),
}


async def _put_policy(service: Service, _: Tokens) -> Message:
    policy = limit_pb.Policy(
        name="made", algorithm=limit_pb.RATE_LIMIT_ALGORITHM_FIXED_WINDOW, unlimited=True
    )
    await service.admin().PutPolicy(pb.PutPolicyRequest(policy=policy))
    return pb.DeletePolicyRequest(name="made")


async def _put_override(service: Service, _: Tokens) -> Message:
    override = pb.PolicyOverride(policy="upload", key="made", effect=pb.OVERRIDE_EFFECT_DENY)
    await service.admin().PutPolicyOverride(pb.PutPolicyOverrideRequest(override=override))
    return pb.DeletePolicyOverrideRequest(policy="upload", key="made")


async def _put_role(service: Service, _: Tokens) -> Message:
    await service.admin().PutRole(pb.PutRoleRequest(role=pb.UserRole(name="made")))
    return pb.DeleteRoleRequest(name="made")


VALID_ONCE: Mapping[str, Callable[[Service, Tokens], Awaitable[Message]]] = {
    "AdminService/DeletePolicy": _put_policy,
    "AdminService/DeletePolicyOverride": _put_override,
    "AdminService/DeleteRole": _put_role,
}
