"""Owns the choice of the way that messages go, as the settings say."""

from authsvc.config import ConfigError, DeliverySettings
from authsvc.core.messages.delivery import Channel, Transport
from authsvc.core.messages.outbox import CODE_KINDS, MessageKind
from authsvc.models.clock import Clock
from authsvc.outbound.folder import FolderChannel
from authsvc.outbound.rendering import TemplateRenderer
from authsvc.outbound.smtp import SmtpChannel
from authsvc.outbound.webhook import WebhookChannel


def build_transport(settings: DeliverySettings, clock: Clock) -> Transport | None:
    """Return the way that messages go, with every template tried; None: there is none.

    Raises:
        ConfigError: A template, a link or a file of authorities can't be used.
    """
    renderer = TemplateRenderer(settings.templates)
    problems = _misnamed_links(settings)
    if problems:
        raise ConfigError(problems)
    try:
        channel = _channel(settings, clock)
    except OSError as error:
        # ssl's own errors are OSErrors too; neither tells what is in the file.
        reason = error.strerror or type(error).__name__
        raise ConfigError([f"delivery.{settings.channel}.ca_file: {reason}"]) from None
    return Transport(channel, renderer) if channel else None


def _channel(settings: DeliverySettings, clock: Clock) -> Channel | None:
    if settings.channel == "folder" and settings.folder:
        return FolderChannel(settings.folder)
    if settings.channel == "smtp" and settings.smtp:
        return SmtpChannel(settings.smtp)
    if settings.channel == "webhook" and settings.webhook:
        return WebhookChannel(settings.webhook, clock)
    return None


def _misnamed_links(settings: DeliverySettings) -> list[str]:
    known = {kind.value for kind in MessageKind}
    with_code = {kind.value for kind in CODE_KINDS}
    problems = [
        f"delivery.links.{name}: there is no such kind of message; known are "
        + ", ".join(sorted(known))
        for name in sorted(settings.links.keys() - known)
    ]
    problems += [
        f"delivery.links.{name}: messages of this kind carry no code"
        for name, link in sorted(settings.links.items())
        if name in known - with_code and "{code}" in link
    ]
    return problems
