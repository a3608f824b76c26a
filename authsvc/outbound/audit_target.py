"""Owns the choice of the target that audit events are forwarded to, by the settings."""

from authsvc.config import AuditForwardSettings, ConfigError
from authsvc.core.audit.forwarding import Target
from authsvc.models.clock import Clock
from authsvc.outbound.audit_webhook import AuditWebhookTarget
from authsvc.outbound.proxy import ProxyRules
from authsvc.outbound.syslog import SyslogTarget


def audit_target(
    settings: AuditForwardSettings, proxies: ProxyRules, clock: Clock
) -> Target | None:
    """Return the target of the settings, or None if there is none.

    Raises:
        ConfigError: A file named in the settings can't be used.
    """
    try:
        if settings.target == "syslog" and settings.syslog:
            return SyslogTarget(settings.syslog)
        if settings.target == "webhook" and settings.webhook:
            return AuditWebhookTarget(settings.webhook, proxies, clock)
    except OSError as error:
        # Errors of ssl are OSErrors, too; neither contains anything from the file.
        reason = error.strerror or type(error).__name__
        raise ConfigError([f"audit.forward.{settings.target}: a file: {reason}"]) from None
    return None
