"""Owns the settings of detections: what counts as an incident."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from authsvc.config.types import Between, Duration, Section
from authsvc.models.incidents import MAX_DETECTION_COUNT

_MINUTE, _HOUR = timedelta(minutes=1), timedelta(hours=1)
_WITHIN = "Within which time; it is raised at most once in it."
_Threshold = Annotated[int, Field(ge=1, le=MAX_DETECTION_COUNT)]
_Window = Annotated[Duration, Between("1m", "24h")]


class DetectionSettings(Section):
    """One detection: it is raised when there are `threshold` in a `window`."""

    enabled: bool = Field(True, description="Whether it is looked for.")
    threshold: _Threshold
    window: _Window


class SprayingSettings(DetectionSettings):
    """When `password_spraying` is raised."""

    threshold: _Threshold = Field(
        20, description="Accounts at which logins from one network failed."
    )
    window: _Window = Field(10 * _MINUTE, description=_WITHIN)


class StuffingSettings(DetectionSettings):
    """When `credential_stuffing` is raised."""

    threshold: _Threshold = Field(
        500, description="Failed logins, at any account and from anywhere."
    )
    window: _Window = Field(10 * _MINUTE, description=_WITHIN)
    failed_percent: int = Field(
        50, ge=1, le=100, description="It takes that many of a hundred logins to have failed, too."
    )


class MassResetSettings(DetectionSettings):
    """When `mass_password_reset` is raised."""

    threshold: _Threshold = Field(
        100, description="Accounts whose password was to be reset, or was."
    )
    window: _Window = Field(10 * _MINUTE, description=_WITHIN)


class RefreshReuseSettings(DetectionSettings):
    """When `refresh_reuse` is raised."""

    threshold: _Threshold = Field(
        10, description="Users of whom a session ended because of a reused refresh token."
    )
    window: _Window = Field(_HOUR, description=_WITHIN)


class NewDevicesSettings(DetectionSettings):
    """When `new_devices` is raised."""

    threshold: _Threshold = Field(
        50, description="Users who logged in from one network, each on a device that was new."
    )
    window: _Window = Field(_HOUR, description=_WITHIN)


class AdminVolumeSettings(DetectionSettings):
    """When `admin_volume` is raised."""

    threshold: _Threshold = Field(100, description="Administrative changes by one caller.")
    window: _Window = Field(10 * _MINUTE, description=_WITHIN)


class KeyCompromiseSettings(DetectionSettings):
    """When `key_compromise` is raised."""

    threshold: _Threshold = Field(1, description="Revoked signing keys.")
    window: _Window = Field(_HOUR, description=_WITHIN)


class DetectionsSettings(Section):
    """What is looked for in the audit events."""

    interval: Annotated[Duration, Between("1s", "5m")] = Field(
        timedelta(seconds=5), description="How often one of the replicas looks."
    )
    password_spraying: SprayingSettings = SprayingSettings()
    credential_stuffing: StuffingSettings = StuffingSettings()
    mass_password_reset: MassResetSettings = MassResetSettings()
    refresh_reuse: RefreshReuseSettings = RefreshReuseSettings()
    new_devices: NewDevicesSettings = NewDevicesSettings()
    admin_volume: AdminVolumeSettings = AdminVolumeSettings()
    key_compromise: KeyCompromiseSettings = KeyCompromiseSettings()
