"""Owns the making of texts from templates: the shipped ones, or an operator's in their place.

Every kind of message has KIND.txt, whose first line is "Subject: …" and whose second is empty, and
KIND.html, whose values are escaped. What is wrong with a template is found at the start.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from jinja2 import (
    ChoiceLoader,
    Environment,
    FileSystemLoader,
    StrictUndefined,
    select_autoescape,
)

from authsvc.config import ConfigError
from authsvc.core.messages.outbox import CODE_KINDS, MessageKind
from authsvc.core.messages.templates import MessageBody, TemplateContext

_SHIPPED = Path(__file__).with_name("templates")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_SUBJECT = "Subject:"
_SAMPLE_CODE = "83120476"


class TemplateRenderer:
    """Makes texts of views by templates; `folder` holds those used in place of shipped ones."""

    def __init__(self, folder: Path | None = None) -> None:
        """Load and try every template.

        Raises:
            ConfigError: The folder or a template in it can't be used; it says which and why.
        """
        self._folder = folder
        folders = [folder, _SHIPPED] if folder else [_SHIPPED]
        self._environment = Environment(
            loader=ChoiceLoader([FileSystemLoader(each) for each in folders]),
            autoescape=select_autoescape(disabled_extensions=("txt",), default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        problems = [*self._misplaced(), *self._broken()]
        if problems:
            raise ConfigError(problems)

    def render(self, view: TemplateContext) -> MessageBody:
        """Return what the message says; its subject is one line, whatever the values hold."""
        values = asdict(view)
        headed = self._environment.get_template(f"{view.kind}.txt").render(values)
        html = self._environment.get_template(f"{view.kind}.html").render(values)
        first, _, text = headed.lstrip().partition("\n\n")
        subject = " ".join(_CONTROL.sub(" ", first.removeprefix(_SUBJECT)).split())
        return MessageBody(subject, text.strip() + "\n", html)

    def _misplaced(self) -> Iterator[str]:
        if self._folder is None:
            return
        if not self._folder.is_dir():
            yield f"delivery.templates: {self._folder}: there is no such folder"
            return
        shipped = {path.name for path in _SHIPPED.iterdir()}
        for path in sorted(self._folder.iterdir()):
            # What begins so is the operator's own part of several templates.
            if path.name not in shipped and not path.name.startswith(("_", ".")):
                yield f"delivery.templates: {path.name}: no message has a template of this name"

    def _broken(self) -> Iterator[str]:
        for kind in MessageKind:
            try:
                yield from self._faults(kind)
            except Exception as error:  # noqa: BLE001 - a template can fail in any way
                name = getattr(error, "name", None) or f"{kind}.txt or .html"
                line = getattr(error, "lineno", None)
                place = f"{name}, line {line}" if line else name
                what = " ".join(f"{type(error).__name__}: {error}".split())
                yield f"delivery.templates: {place}: {what}"

    def _faults(self, kind: MessageKind) -> Iterator[str]:
        carries_code = kind in CODE_KINDS
        empty = TemplateContext(kind, "P", "a@b.test", **_code(kind))
        full = TemplateContext(kind, "P", "a@b.test", "N", link="https://l", **_code(kind) | _REST)
        for view in (empty, full):
            headed = self._environment.get_template(f"{kind}.txt").render(asdict(view))
            text = self.render(view)
            if not re.match(r"\s*Subject:[^\n]*\S[^\n]*\n\n", headed):
                yield (
                    f'delivery.templates: {kind}.txt: it has to begin with a line "Subject: …" '
                    "and an empty one"
                )
                return
            for suffix, part in (("txt", text.text), ("html", text.html)):
                if carries_code and _SAMPLE_CODE not in part:
                    yield f"delivery.templates: {kind}.{suffix}: it does not show the code"
                    return


_REST = {"factor": "F", "provider": "P", "key_name": "K"}


def _code(kind: MessageKind) -> dict[str, str]:
    return {"code": _SAMPLE_CODE, "lifetime": "10 minutes"} if kind in CODE_KINDS else {}
