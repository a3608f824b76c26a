"""What a reload says: which changed keys took effect, and which need a restart."""

from datetime import timedelta
from typing import Any

from authsvc.app.reload import RELOADED
from authsvc.config import CallerSettings, NamedPolicySettings, Settings
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
