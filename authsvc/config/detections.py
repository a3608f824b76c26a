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
        50,
        ge=1,
        le=100,
        description="It takes that many of a hundred logins to have failed, too; of a user's"
        " successful ones, one counts.",
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
    password_spraying: SprayingSettings = Field(
        SprayingSettings(), description="One network tries few passwords at many accounts."
    )
    credential_stuffing: StuffingSettings = Field(
        StuffingSettings(), description="Passwords stolen elsewhere are tried at many accounts."
    )
    mass_password_reset: MassResetSettings = Field(
        MassResetSettings(), description="Passwords of many accounts are reset at once."
    )
    refresh_reuse: RefreshReuseSettings = Field(
        RefreshReuseSettings(), description="Used refresh tokens of many users are presented again."
    )
    new_devices: NewDevicesSettings = Field(
        NewDevicesSettings(), description="Many users log in from one network, on new devices."
    )
    admin_volume: AdminVolumeSettings = Field(
        AdminVolumeSettings(), description="One caller changes unusually much."
    )
    key_compromise: KeyCompromiseSettings = Field(
        KeyCompromiseSettings(), description="Signing keys are revoked."
    )
