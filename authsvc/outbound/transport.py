"""Owns the choice of the transport for messages, by the settings."""

import functools

from authsvc.config import ConfigError, DeliverySettings
from authsvc.core.messages.delivery import Channel, Transport
from authsvc.core.messages.outbox import CODE_KINDS, MessageKind
from authsvc.models.clock import Clock
from authsvc.outbound.folder import FolderChannel
from authsvc.outbound.proxy import ProxyRules
from authsvc.outbound.rendering import TemplateRenderer
from authsvc.outbound.smtp import SmtpChannel
from authsvc.outbound.webhook import WebhookChannel


def build_transport(
    settings: DeliverySettings, proxies: ProxyRules, clock: Clock
) -> Transport | None:
    """Return the transport with all templates tested, or None if messages are not sent.

    Raises:
        ConfigError: A template, a link or a CA file is invalid.
    """
    renderer = TemplateRenderer(settings.templates) if settings.templates else _shipped()
    problems = _misnamed_links(settings)
    if problems:
        raise ConfigError(problems)
    try:
        channel = _channel(settings, proxies, clock)
    except OSError as error:
        # Errors of ssl are OSErrors, too; neither contains anything from the file.
        reason = error.strerror or type(error).__name__
        raise ConfigError([f"delivery.{settings.channel}.ca_file: {reason}"]) from None
    return Transport(channel, renderer) if channel else None


@functools.cache
def _shipped() -> TemplateRenderer:
    # They are part of the code. Testing them takes a tenth of a second, once in a process.
    return TemplateRenderer()


def _channel(settings: DeliverySettings, proxies: ProxyRules, clock: Clock) -> Channel | None:
    if settings.channel == "folder" and settings.folder:
        return FolderChannel(settings.folder)
    if settings.channel == "smtp" and settings.smtp:
        return SmtpChannel(settings.smtp)
    if settings.channel == "webhook" and settings.webhook:
        return WebhookChannel(settings.webhook, proxies, clock)
    return None


def _misnamed_links(settings: DeliverySettings) -> list[str]:
    known = {kind.value for kind in MessageKind}
    with_code = {kind.value for kind in CODE_KINDS}
    problems = [
        f"delivery.links.{name}: no such kind of message; the kinds are " + ", ".join(sorted(known))
        for name in sorted(settings.links.keys() - known)
    ]
    problems += [
        f"delivery.links.{name}: messages of this kind carry no code"
        for name, link in sorted(settings.links.items())
        if name in known - with_code and "{code}" in link
    ]
    return problems
