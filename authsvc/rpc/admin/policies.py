"""Owns the RPCs of AdminService that define rate-limit policies and overrides at run time."""

from dataclasses import replace
from datetime import datetime

from authsvc.core.lib import base64url, paging
from authsvc.errors import FieldInvalid
from authsvc.models.limits import Effect, Override
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.rpc.rate_limit import messages
from authsvc.rpc.topic import Topic
from authsvc.v1 import admin_service_pb2 as pb

_MAX_NOTE = 256
_EFFECT = {effect: pb.OverrideEffect.Value(f"OVERRIDE_EFFECT_{effect.name}") for effect in Effect}


class PolicyRpcs(Topic):
    """Policies and overrides."""

    async def PutPolicy(
        self, request: pb.PutPolicyRequest, _context: Context
    ) -> pb.PutPolicyResponse:
        """Create or replace a policy."""
        policy = messages.policy(request.policy, "policy")
        created = await self._use.policies.put(current_call(), policy)
        return pb.PutPolicyResponse(policy=messages.policy_message(policy), created=created)

    async def DeletePolicy(
        self, request: pb.DeletePolicyRequest, _context: Context
    ) -> pb.DeletePolicyResponse:
        """Delete a policy and its overrides."""
        name = messages.own_policy_name(request.name, "name")
        await self._use.policies.delete(current_call(), name)
        return pb.DeletePolicyResponse()

    async def PutPolicyOverride(
        self, request: pb.PutPolicyOverrideRequest, _context: Context
    ) -> pb.PutPolicyOverrideResponse:
        """Create or replace what holds for one key."""
        override = _override(request.override, "override", self._use.policies.now())
        await self._use.policies.put_override(current_call(), override)
        return pb.PutPolicyOverrideResponse(override=_override_message(override))

    async def DeletePolicyOverride(
        self, request: pb.DeletePolicyOverrideRequest, _context: Context
    ) -> pb.DeletePolicyOverrideResponse:
        """Let the policy's numbers hold for a key again."""
        await self._use.policies.delete_override(
            current_call(),
            messages.own_policy_name(request.policy, "policy"),
            messages.limit_key(request.key, "key"),
        )
        return pb.DeletePolicyOverrideResponse()

    async def ListPolicyOverrides(
        self, request: pb.ListPolicyOverridesRequest, _context: Context
    ) -> pb.ListPolicyOverridesResponse:
        """List the overrides in force by policy and key."""
        size = paging.page_size(request.page_size)
        policy = messages.own_policy_name(request.policy, "policy") if request.policy else None
        after = _parse_token(request.page_token)
        found = await self._use.policies.list_overrides(policy, after, size + 1)
        page, next_page_token = paging.cut(found, size, _token)
        return pb.ListPolicyOverridesResponse(
            overrides=map(_override_message, page), next_page_token=next_page_token
        )


def _override(message: pb.PolicyOverride, field: str, now: datetime) -> Override:
    effects = {number: effect for effect, number in _EFFECT.items()}
    effect = effects.get(message.effect)
    if effect is None:
        raise FieldInvalid(f"{field}.effect", "must be one of the effects")
    override = Override(
        policy=messages.own_policy_name(message.policy, f"{field}.policy"),
        key=messages.limit_key(message.key, f"{field}.key"),
        effect=effect,
        expire_time=convert.future_time(message.expire_time, f"{field}.expire_time", now)
        if message.HasField("expire_time")
        else None,
        note=convert.text(message.note, f"{field}.note", _MAX_NOTE),
    )
    if effect is Effect.NUMBERS:
        return replace(
            override,
            requests=messages.amount(message.requests, f"{field}.requests", least=1),
            window=messages.window_of(
                convert.lifetime(message.window, f"{field}.window"),
                f"{field}.window",
                is_counted=True,
            )
            if message.HasField("window")
            else None,
            burst=messages.amount(message.burst, f"{field}.burst"),
        )
    for name in ("requests", "burst"):
        if getattr(message, name):
            raise FieldInvalid(f"{field}.{name}", "must be 0 unless the effect is NUMBERS")
    if message.HasField("window"):
        raise FieldInvalid(f"{field}.window", "must be absent unless the effect is NUMBERS")
    return override


def _override_message(override: Override) -> pb.PolicyOverride:
    message = pb.PolicyOverride(
        policy=override.policy,
        key=override.key,
        effect=_EFFECT[override.effect],
        requests=override.requests,
        burst=override.burst,
        note=override.note,
    )
    if override.window is not None:
        convert.fill_duration(message.window, override.window.total_seconds())
    if override.expire_time is not None:
        message.expire_time.CopyFrom(convert.timestamp(override.expire_time))
    return message


def _token(last: Override) -> str:
    return base64url.encode(f"{last.policy}\0{last.key}".encode())


def _parse_token(token: str) -> tuple[str, str]:
    if not token:
        return "", ""
    try:
        policy, key = base64url.decode(token).decode().split("\0")
        return messages.policy_name(policy, ""), messages.limit_key(key, "")
    except (ValueError, FieldInvalid):
        raise FieldInvalid("page_token", "is not a page token of this list") from None
