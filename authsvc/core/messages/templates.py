"""Owns what messages to users are made of: the values that their templates may name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol
from urllib.parse import quote
from uuid import UUID

from authsvc.core.messages.outbox import CODE_KINDS, Message, MessageKind

_MAX_VALUE = 64
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2060-\u2069]+")
# What a mail program might make a link of. Whoever registers with somebody else's address chooses
# the name, and must not have this service advertise for him.
_LINKED = re.compile(r"[/\\:@<>]|\w\.\w|\bwww\b", re.IGNORECASE)
# Strangers can have these sent to an address that is not theirs: no word in them is a user's own.
_IMPERSONAL = CODE_KINDS | {MessageKind.EMAIL_IN_USE}
_FACTORS = {"totp": "an authenticator app", "passkey": "a passkey"}


@dataclass(frozen=True, slots=True)
class MessageBody:
    """What a message says; the subject is one line."""

    subject: str
    text: str = field(repr=False)
    html: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TemplateContext:
    """What the templates of a message may name; all but `product` and `address` may be "".

    `lifetime` says how long the code works, such as "10 minutes". `name`, `factor`, `provider` and
    `key_name` were chosen by users: one line each, without what could become a link.
    """

    kind: MessageKind
    product: str
    address: str = field(repr=False)
    name: str = field(default="", repr=False)
    code: str = field(default="", repr=False)
    lifetime: str = ""
    link: str = field(default="", repr=False)
    factor: str = field(default="", repr=False)
    provider: str = field(default="", repr=False)
    key_name: str = field(default="", repr=False)


class Renderer(Protocol):
    """Makes texts of views."""

    def render(self, view: TemplateContext) -> MessageBody:
        """Return what the message says."""


@dataclass(frozen=True, slots=True)
class RenderedMessage:
    """A message as a channel hands it over; the id is the same however often that is tried."""

    message_id: UUID
    message: Message = field(repr=False)
    create_time: datetime
    content: MessageBody = field(repr=False)


def template_context(
    message: Message, create_time: datetime, product: str, links: Mapping[str, str]
) -> TemplateContext:
    """Return what the templates of this message may name.

    `links` are addresses by kind, with {code} and {email} in them.
    """
    expire_time = message.expire_time
    return TemplateContext(
        kind=message.kind,
        product=product,
        address=message.address,
        name="" if message.kind in _IMPERSONAL else _plain(message.values.get("display_name", "")),
        code=message.code,
        lifetime=_in_words(expire_time - create_time) if expire_time else "",
        link=_filled(links.get(message.kind.value, ""), message),
        factor=_factor(message.values.get("factor", "")),
        provider=_plain(message.values.get("provider", "")),
        key_name=_plain(message.values.get("key_name", "")),
    )


def _factor(kind: str) -> str:
    return _FACTORS.get(kind, _plain(kind))


def _plain(value: str) -> str:
    line = " ".join(_INVISIBLE.sub(" ", value).split())
    return "" if len(line) > _MAX_VALUE or _LINKED.search(line) else line


def _filled(link: str, message: Message) -> str:
    return link.replace("{code}", quote(message.code, safe="")).replace(
        "{email}", quote(message.address, safe="")
    )


def _in_words(lifetime: timedelta) -> str:
    minutes = max(1, round(lifetime.total_seconds() / 60))
    for unit, size in (("day", 24 * 60), ("hour", 60)):
        if minutes >= 2 * size or minutes == size:
            return _counted(minutes // size, unit)
    return _counted(minutes, "minute")


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
