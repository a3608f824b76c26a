"""Owns the checks of limits: those of the settings, and policies that were made at run time."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from authsvc.app.addresses import unix_path
from authsvc.cli.doctor.deployment import Deployment
from authsvc.cli.doctor.findings import Finding, ok, warning
from authsvc.config import PolicySettings, Settings
from authsvc.core.limits.limiter import policies_from
from authsvc.core.limits.policies import MAX_OVERRIDES, MAX_POLICIES
from authsvc.core.roles.permissions import Permissions
from authsvc.models.limits import Effect, Override, Policy
from authsvc.store import policies as stored_policies
from authsvc.store import roles as stored_roles

# Networks of which a block would never apply to a noticeable part of the Internet.
_WIDEST_ALLOWED = {4: 8, 6: 19}
# Guesses at one account in a day, beyond which a common password is found in weeks.
_MOST_GUESSES = 1_000
# The part of the policies and overrides there may be, from which on there is little room.
_NEARLY_ALL = 0.9
# The policy that protects passwords.
_LOGIN = "login"


async def limits(deployment: Deployment) -> Sequence[Finding]:
    """Check that no limit is beyond what protects, or can never be reached."""
    return list(_limits(deployment.settings)) or [
        ok("brute_force, rate_limits, blocks and grpc make sense together")
    ]


def _limits(settings: Settings) -> Iterator[Finding]:
    brute_force = settings.brute_force
    for name in ("per_account", "per_known_device"):
        daily = _per_day(getattr(brute_force, name))
        if daily > _MOST_GUESSES:
            yield warning(
                f"brute_force.{name} allows {daily:,.0f} failed attempts a day",
                f"keep it below {_MOST_GUESSES:,}: fewer requests, or a longer window",
            )
    for policy in policies_from(settings.rate_limits.policies).values():
        yield from _policy(f"rate_limits.policies.{policy.name}", policy)
    for network in settings.blocks.allowed_networks():
        if network.prefixlen < _WIDEST_ALLOWED[network.version]:
            yield warning(
                f"blocks.allow has {network}: attackers in it are never blocked",
                "name only your own networks",
            )
    yield from _ports(settings)


def _per_day(policy: PolicySettings) -> float:
    return policy.requests * (timedelta(days=1) / policy.window)


def _policy(where: str, policy: Policy) -> Iterator[Finding]:
    if policy.burst > policy.requests > 0:
        yield warning(
            f"{where}: burst {policy.burst} is more than its requests"
            f" {policy.requests}, so it never matters",
            "lower burst, or raise requests",
        )
    if policy.name == _LOGIN and _refuses_nothing(policy):
        yield warning(
            f"{where} refuses nothing",
            "remove unlimited and shadow, unless its counts are being observed",
        )


def _refuses_nothing(policy: Policy) -> bool:
    return policy.unlimited or policy.shadow


def _ports(settings: Settings) -> Iterator[Finding]:
    grpc = settings.grpc
    for part, whole in (
        ("max_concurrent_rpcs_per_caller", "max_concurrent_rpcs"),
        ("max_connections_per_caller", "max_connections"),
    ):
        if getattr(grpc, part) >= getattr(grpc, whole):
            yield warning(
                f"grpc.{part} is not less than grpc.{whole}: one caller can take all",
                f"lower grpc.{part}, so that other callers have room",
            )
    if grpc.call_timeout < settings.database.acquire_timeout:
        yield warning(
            "grpc.call_timeout is shorter than database.acquire_timeout: calls end before they"
            " are told that the database is busy",
            "make grpc.call_timeout the longer one",
        )
    if unix_path(grpc.address) is None and grpc.drain_timeout < grpc.call_timeout:
        yield warning(
            "grpc.drain_timeout is shorter than grpc.call_timeout: calls in progress are cut off"
            " when the service stops",
            "make grpc.drain_timeout the longer one, and the orchestrator's grace period longer"
            " still",
        )


async def definitions(deployment: Deployment) -> Sequence[Finding]:
    """Check policies, overrides and roles that were made at run time, as those of the settings."""
    database, clock = await deployment.database(), await deployment.clock()
    async with database.connection() as connection:
        policies = await stored_policies.read(connection)
        overrides = await stored_policies.read_overrides(connection, clock.now())
        roles = [role.name for role in await stored_roles.read(connection)]
    settings = deployment.settings
    permissions = Permissions.of_settings(settings)
    in_settings = policies_from(settings.rate_limits.all_policies())
    findings = [
        *_overruled("policy", [each.name for each in policies if each.name in in_settings]),
        *_overruled("role", [name for name in roles if permissions.is_in_settings(name)]),
    ]
    for policy in policies:
        if policy.name not in in_settings:
            findings += _policy(f"the policy {policy.name}", policy)
    known = in_settings.keys() | {policy.name for policy in policies}
    findings += _overrides(overrides, known)
    findings += _room("policies", len(policies), MAX_POLICIES)
    findings += _room("overrides", len(overrides), MAX_OVERRIDES)
    shadows = [each.name for each in policies if _refuses_nothing(each)]
    text = f"{len(policies)} policies, {len(overrides)} overrides and {len(roles)} roles"
    text += f"; unlimited or in shadow: {', '.join(shadows)}" if shadows else ""
    return findings or [ok(text)]


def _overruled(kind: str, names: Sequence[str]) -> Iterator[Finding]:
    plural = {"policy": "policies", "role": "roles"}[kind]
    for name in names:
        yield warning(
            f"the {kind} {name} of run time is overruled by the one of the settings",
            f"remove the one that you don't mean: `authsvc {plural} delete {name}`, or the setting",
        )


def _overrides(overrides: Sequence[Override], known: set[str]) -> Iterator[Finding]:
    for policy, count in _count(overrides, lambda each: each.policy not in known).items():
        yield warning(
            f"{count} overrides are of the policy {policy}, which there isn't",
            f"remove them (`authsvc policies overrides {policy}` lists them), or define the policy:"
            " then they hold again",
        )
    for policy, count in _count(overrides, _has_idle_burst).items():
        yield warning(
            f"{count} overrides of the policy {policy} have a burst that is more than their"
            " requests, so it never matters",
            f"`authsvc policies overrides {policy}` lists them: lower burst, or raise requests",
        )
    for policy, count in _count(overrides, _frees_logins).items():
        yield warning(
            f"the policy {policy} refuses nothing to {count} keys, without an end",
            f"`authsvc policies overrides {policy}` lists them: give them an end (--for), or"
            " numbers of their own (--requests)",
        )


def _count(overrides: Sequence[Override], chosen: Callable[[Override], bool]) -> Counter[str]:
    return Counter(each.policy for each in overrides if chosen(each))


def _has_idle_burst(override: Override) -> bool:
    return override.effect is Effect.NUMBERS and override.burst > override.requests > 0


def _frees_logins(override: Override) -> bool:
    return (
        override.policy == _LOGIN
        and override.effect is Effect.ALLOW
        and override.expire_time is None
    )


def _room(kind: str, count: int, most: int) -> Iterator[Finding]:
    if count >= most * _NEARLY_ALL:
        yield warning(
            f"there are {count:,} {kind} of {most:,} that there may be",
            f"remove {kind} that nobody needs; the next beyond that fails with LIMIT_REACHED",
        )
