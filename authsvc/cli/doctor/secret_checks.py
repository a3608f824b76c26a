"""Owns the checks of keys: those that stored secrets need, and the one that signs tokens."""

from collections.abc import Sequence
from datetime import timedelta

from authsvc.cli.config_check import key_usage
from authsvc.cli.doctor.deployment import Deployment
from authsvc.cli.doctor.findings import Finding, error, ok, warning
from authsvc.config import KeySettings
from authsvc.config.durations import text
from authsvc.models.signing import KeyState

# Random bytes have about 30 different ones among 32.
_FEWEST_BYTES = 16
# A key is replaced when it is due; each replica looks every few seconds.
_OVERDUE = 1.2


async def strength(deployment: Deployment) -> Sequence[Finding]:
    """Check that keys and peppers look random, and that none serves twice."""
    secrets = deployment.settings.secrets
    remedy = "make a new one by `authsvc keys generate`, and put it first"
    named = [("keyring", key) for key in secrets.keyring]
    named += [("peppers", key) for key in secrets.peppers]
    findings = [
        error(f"secrets.{name}: {key.id} does not look random", remedy)
        for name, key in named
        if _is_weak(key)
    ]
    values = [key.key_bytes() for _, key in named]
    findings += [
        warning(f"secrets.{name}: {key.id} is the same key as an earlier one", remedy)
        for number, (name, key) in enumerate(named)
        if values[number] in values[:number]
    ]
    count = f"keys: {len(secrets.keyring)}, peppers: {len(secrets.peppers)}"
    return findings or [ok(f"{count}, all different and random by their looks")]


def _is_weak(key: KeySettings) -> bool:
    return len(set(key.key_bytes())) < _FEWEST_BYTES


async def usable(deployment: Deployment) -> Sequence[Finding]:
    """Check that each key and pepper is there that stored secrets need."""
    missing = await key_usage(deployment.settings, await deployment.database()).missing()
    remedy = (
        "add it to the settings of every replica again; `authsvc keys status` shows what each"
        " protects, and `authsvc keys reseal` moves everything to the newest"
    )
    return [error(each, remedy) for each in missing] or [ok("all that stored secrets need")]


async def signing(deployment: Deployment) -> Sequence[Finding]:
    """Check that the key that signs tokens can be opened, and is replaced in time."""
    keys, tokens = await deployment.signing_keys(), deployment.settings.tokens
    infos = await keys.list()
    if not infos:
        return [warning("there is no signing key yet", "the first start of the service makes one")]
    active = next((info for info in infos if info.state is KeyState.ACTIVE), None)
    if active is None:
        return [
            error(
                "no signing key is active, so no token is issued",
                "start the service, which makes one, or look at its log",
            )
        ]
    if keys.find(active.key_id) is None:
        return [
            error(
                f"the active signing key {active.key_id} can't be opened with secrets.keyring",
                "use the keyring that this database's secrets were sealed with",
            )
        ]
    age = (await deployment.clock()).now() - (active.activate_time or active.create_time)
    shown = text(timedelta(seconds=int(max(age, timedelta()).total_seconds())))
    if age > tokens.key_rotation_interval * _OVERDUE:
        return [
            error(
                f"the active signing key is {shown} old, though tokens.key_rotation_interval is"
                f" {text(tokens.key_rotation_interval)}: nothing rotates it",
                "start the service; if it runs, its log says why (signing_key_maintenance_failed)",
            )
        ]
    if active.algorithm != tokens.algorithm:
        return [
            warning(
                f"the active key signs with {active.algorithm}, tokens.algorithm is"
                f" {tokens.algorithm}",
                "wait for tokens.key_publish_lead; if replicas have different settings, make them"
                " the same",
            )
        ]
    return [ok(f"{active.key_id} signs since {shown} with {active.algorithm}")]
