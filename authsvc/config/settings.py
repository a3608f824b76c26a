"""Owns the settings as a whole: all sections, and the constraints between them."""

from datetime import timedelta

from pydantic import Field, model_validator

from authsvc.config.api_keys import ApiKeySettings
from authsvc.config.audit import AuditSettings
from authsvc.config.blocks import BlockSettings
from authsvc.config.callers import CallerSettings
from authsvc.config.codes import CodeSettings
from authsvc.config.database import DatabaseSettings
from authsvc.config.delivery import DeliverySettings
from authsvc.config.detections import DetectionsSettings
from authsvc.config.emails import EmailSettings
from authsvc.config.encryption import EncryptionSettings
from authsvc.config.factors import PasskeySettings, SecondFactorSettings
from authsvc.config.federation import OAuthSettings
from authsvc.config.imports import ImportSettings
from authsvc.config.limits import BruteForceSettings, RateLimitSettings
from authsvc.config.log import LogSettings
from authsvc.config.outbound import OutboundSettings
from authsvc.config.passwords import PasswordSettings
from authsvc.config.retention import RetentionSettings
from authsvc.config.secrets import SecretSettings
from authsvc.config.server import GrpcSettings, HttpSettings, TlsSettings
from authsvc.config.sessions import SessionSettings
from authsvc.config.telemetry import TelemetrySettings
from authsvc.config.tokens import TokenSettings
from authsvc.config.turn import TurnSettings
from authsvc.config.types import PermissionName, RoleName, Section
from authsvc.models.session_keys import STATEMENT_AUDIENCE


def _shipped_permissions() -> dict[str, tuple[str, ...]]:
    return {"user": ("read", "write")}


class Settings(Section):
    """All settings."""

    grpc: GrpcSettings = GrpcSettings()
    http: HttpSettings = HttpSettings()
    tls: TlsSettings
    callers: tuple[CallerSettings, ...] = Field(
        default=(), description="The services that may call, with their roles."
    )
    database: DatabaseSettings
    secrets: SecretSettings
    encryption: EncryptionSettings = EncryptionSettings()
    tokens: TokenSettings = TokenSettings()
    sessions: SessionSettings = SessionSettings()
    emails: EmailSettings = EmailSettings()
    passwords: PasswordSettings = PasswordSettings()
    rate_limits: RateLimitSettings = RateLimitSettings()
    brute_force: BruteForceSettings = BruteForceSettings()
    blocks: BlockSettings = BlockSettings()
    codes: CodeSettings = CodeSettings()
    delivery: DeliverySettings = DeliverySettings()
    second_factors: SecondFactorSettings = SecondFactorSettings()
    passkeys: PasskeySettings = PasskeySettings()
    oauth: OAuthSettings = OAuthSettings()
    outbound: OutboundSettings = OutboundSettings()
    api_keys: ApiKeySettings = ApiKeySettings()
    turn: TurnSettings = TurnSettings()
    imports: ImportSettings = ImportSettings()
    retention: RetentionSettings = RetentionSettings()
    detections: DetectionsSettings = DetectionsSettings()
    audit: AuditSettings = AuditSettings()
    log: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    permissions: dict[RoleName, tuple[PermissionName, ...]] = Field(
        default_factory=_shipped_permissions,
        description="The permissions of each user role, which are put into access tokens.",
    )

    @model_validator(mode="after")
    def _identities_are_unique(self) -> "Settings":
        identities = [caller.identity for caller in self.callers]
        repeated = sorted({name for name in identities if identities.count(name) > 1})
        if repeated:
            raise ValueError(f"callers has duplicate identities: {', '.join(repeated)}")
        return self

    @model_validator(mode="after")
    def _audience_of_statements_is_reserved(self) -> "Settings":
        audiences = {self.tokens.audience}.union(*(caller.audiences for caller in self.callers))
        if STATEMENT_AUDIENCE in audiences:
            raise ValueError(f'the audience "{STATEMENT_AUDIENCE}" is reserved')
        return self

    @model_validator(mode="after")
    def _addresses_differ(self) -> "Settings":
        if self.grpc.address == self.http.address and not self.grpc.address.endswith(":0"):
            raise ValueError("grpc.address and http.address are the same")
        return self

    @model_validator(mode="after")
    def _events_outlive_outages_of_their_target(self) -> "Settings":
        forwards = self.audit.forward.target != "none"
        if forwards and self.retention.audit_events < timedelta(days=7):
            raise ValueError("retention.audit_events must be at least 7d with audit.forward")
        return self

    @model_validator(mode="after")
    def _tokens_do_not_outlive_what_ends_them(self) -> "Settings":
        tokens, kept = self.tokens, self.retention
        # An idle session still has access tokens, which end with it.
        if kept.sessions < tokens.access_lifetime:
            raise ValueError("retention.sessions must be at least tokens.access_lifetime")
        if kept.revocations < tokens.revocation_validity:
            raise ValueError(
                "retention.revocations must be at least tokens.access_lifetime,"
                " tokens.service_lifetime and tokens.session_key_lifetime, plus"
                " tokens.clock_skew and a minute"
            )
        return self

    @model_validator(mode="after")
    def _policy_of_api_keys_exists(self) -> "Settings":
        if self.api_keys.policy not in {None, *self.rate_limits.all_policies()}:
            raise ValueError("api_keys.policy is not one of rate_limits.policies")
        return self
