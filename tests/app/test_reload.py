"""What a reload says: which changed keys took effect, and which need a restart."""

import re
from datetime import timedelta
from typing import Any

from authsvc.app.reload import RELOADED, Reload
from authsvc.config import CallerSettings, KeySettings, NamedPolicySettings, Settings
from authsvc.config.reference import rows
from authsvc.models.calls import Role
from tests.support.service import StartService


def _with(settings: Settings, section: str, **changes: object) -> Settings:
    part: Any = getattr(settings, section)
    return settings.model_copy(update={section: part.model_copy(update=changes)})


async def test_reload_says_what_took_effect_and_what_needs_a_restart(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(live_settings)

    def gauge(name: str) -> float | None:
        return service.app.web._metrics.registry.get_sample_value(f"authsvc_settings_{name}")

    assert gauge("restart_needed") == 0
    same = service.app.reload(live_settings)
    assert (same.applied, same.restart_needed) == ([], [])

    policy = NamedPolicySettings(requests=1, window=timedelta(seconds=1))
    changed = _with(live_settings, "rate_limits", policies={"mail": policy})
    changed = _with(changed, "codes", resend_interval=timedelta(0), lifetime=timedelta(minutes=1))
    changed = _with(changed, "log", level="debug")
    changed = _with(changed, "brute_force", ipv4_prefix=24)
    caller = CallerSettings(identity="dns:new", roles=frozenset({Role.APP}))
    changed = changed.model_copy(update={"callers": (*changed.callers, caller)})
    told = service.app.reload(changed)
    assert told.applied == [
        "brute_force.ipv4_prefix",
        "callers",
        "codes.resend_interval",
        "rate_limits.policies.mail",
    ]
    assert told.restart_needed == ["codes.lifetime", "log.level"]
    assert gauge("restart_needed") == 1

    # Nothing new has changed, but the restart is still needed; taken back, it isn't.
    again = service.app.reload(changed)
    assert (again.applied, again.restart_needed) == ([], told.restart_needed)
    service.app.note_failed_reload()
    assert gauge("reload_failed") == 1
    back = service.app.reload(live_settings)
    assert (back.applied, back.restart_needed) == (told.applied, [])
    assert (gauge("restart_needed"), gauge("reload_failed")) == (0, 0)


def test_keys_that_are_reloaded_exist() -> None:
    keys = [row.key.replace("[]", "") for row in rows()]
    for name in RELOADED:
        assert any(f"{key}.".startswith(f"{name}.") for key in keys), name


def test_fingerprint_is_that_of_the_settings_in_force(settings: Settings) -> None:
    reload = Reload(settings)
    started = reload.fingerprint
    assert re.fullmatch(r"[0-9a-f]{12}", started)
    # Takes effect only after a restart, and a secret is no part of it.
    reload.to(_with(settings, "log", level="debug"))
    assert reload.fingerprint == started
    other = KeySettings.model_validate(
        {"id": settings.secrets.peppers[0].id, "key": "A" * 43 + "="}
    )
    assert Reload(_with(settings, "secrets", peppers=(other,))).fingerprint == started
    renamed = other.model_copy(update={"id": "other"})
    assert Reload(_with(settings, "secrets", peppers=(renamed,))).fingerprint != started
    # Is reloaded.
    stricter = _with(settings, "brute_force", ipv4_prefix=24)
    reload.to(stricter)
    assert reload.fingerprint == Reload(stricter).fingerprint != started
    reload.to(settings)
    assert reload.fingerprint == started


def test_fingerprint_is_the_same_on_machines_with_addresses_of_their_own(
    settings: Settings,
) -> None:
    elsewhere = _with(settings, "grpc", address="192.0.2.7:8443")
    elsewhere = _with(elsewhere, "http", address="192.0.2.7:8081")
    assert Reload(elsewhere).fingerprint == Reload(settings).fingerprint
