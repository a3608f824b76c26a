"""Owns the settings: one module for each section, and one loader for all."""

from authsvc.config.api_keys import ApiKeySettings
from authsvc.config.audit import AuditForwardSettings, AuditSettings, SyslogSettings
from authsvc.config.blocks import BlockSettings
from authsvc.config.callers import CallerSettings
from authsvc.config.codes import CodeSettings
from authsvc.config.cookies import CookieSettings
from authsvc.config.database import DatabaseSettings
from authsvc.config.delivery import DeliverySettings, SmtpSettings, WebhookSettings
from authsvc.config.detections import DetectionSettings, DetectionsSettings
from authsvc.config.emails import EmailSettings
from authsvc.config.encryption import EncryptionSettings
from authsvc.config.factors import PasskeySettings, SecondFactorSettings
from authsvc.config.federation import OAuthSettings, ProviderSettings
from authsvc.config.hsm import HsmSettings
from authsvc.config.imports import ImportSettings
from authsvc.config.limits import (
    BruteForceSettings,
    NamedPolicySettings,
    PolicySettings,
    RateLimitSettings,
)
from authsvc.config.loading import ConfigError, Loaded, load, load_with_notes
from authsvc.config.log import LogSettings
from authsvc.config.outbound import OutboundSettings
from authsvc.config.passwords import BreachedPasswordSettings, PasswordSettings
from authsvc.config.retention import RetentionSettings
from authsvc.config.secrets import SecretSettings
from authsvc.config.server import GrpcSettings, HttpSettings, TlsSettings
from authsvc.config.sessions import SessionSettings
from authsvc.config.settings import Settings
from authsvc.config.telemetry import TelemetrySettings
from authsvc.config.tokens import TokenSettings
from authsvc.config.turn import TurnSettings
from authsvc.config.types import KeySettings, Section

__all__ = [
    "ApiKeySettings",
    "AuditForwardSettings",
    "AuditSettings",
    "BlockSettings",
    "BreachedPasswordSettings",
    "BruteForceSettings",
    "CallerSettings",
    "CodeSettings",
    "ConfigError",
    "CookieSettings",
    "DatabaseSettings",
    "DeliverySettings",
    "DetectionSettings",
    "DetectionsSettings",
    "EmailSettings",
    "EncryptionSettings",
    "GrpcSettings",
    "HsmSettings",
    "HttpSettings",
    "ImportSettings",
    "KeySettings",
    "Loaded",
    "LogSettings",
    "NamedPolicySettings",
    "OAuthSettings",
    "OutboundSettings",
    "PasskeySettings",
    "PasswordSettings",
    "PolicySettings",
    "ProviderSettings",
    "RateLimitSettings",
    "RetentionSettings",
    "SecondFactorSettings",
    "SecretSettings",
    "Section",
    "SessionSettings",
    "Settings",
    "SmtpSettings",
    "SyslogSettings",
    "TelemetrySettings",
    "TlsSettings",
    "TokenSettings",
    "TurnSettings",
    "WebhookSettings",
    "load",
    "load_with_notes",
]
