"""What messages say: the shipped templates, an operator's own, and what users may put into them."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from authsvc.config import ConfigError, DeliverySettings
from authsvc.core.messages.outbox import CODE_KINDS, Message, MessageKind
from authsvc.core.messages.templates import MessageBody, template_context
from authsvc.outbound.proxy import DIRECT
from authsvc.outbound.rendering import TemplateRenderer
from authsvc.outbound.transport import build_transport
from tests.support.clock import FakeClock
from tests.support.delivering import ADDRESS, CODE
from tests.support.rendered import NOW

_SHIPPED = TemplateRenderer()
_EVIL = "<script>alert(1)</script>&\"'{{ 7*7 }}"


def _message(kind: MessageKind, **values: str) -> Message:
    if kind in CODE_KINDS:
        return Message(kind, ADDRESS, None, CODE, NOW + timedelta(minutes=10), values)
    return Message(kind, ADDRESS, None, values=values)


def _said(
    kind: MessageKind,
    renderer: TemplateRenderer = _SHIPPED,
    *,
    link: str = "",
    product: str = "Example Shop",
    **values: Any,
) -> MessageBody:
    links = {kind.value: link} if link else {}
    return renderer.render(template_context(_message(kind, **values), NOW, product, links))


@pytest.mark.parametrize("kind", list(MessageKind))
def test_every_kind_has_text_and_html(kind: MessageKind) -> None:
    said = _said(kind, display_name="Ada", factor="passkey", provider="GitHub", key_name="ci")
    assert "Example Shop" in said.subject
    assert len(said.subject) <= 78
    assert CODE not in said.subject, "a locked screen shows it"
    for part in (said.text, said.html):
        assert ADDRESS in part
        assert (CODE in part) == (kind in CODE_KINDS)
        assert ("10 minutes" in part) == (kind in CODE_KINDS)
    assert "<" not in said.text
    assert all(len(line) <= 100 for line in said.text.splitlines())
    assert said.html.count("<p") == said.html.count("</p>")


def test_every_kind_has_its_own_subject() -> None:
    assert len({_said(kind).subject for kind in MessageKind}) == len(MessageKind)


@pytest.mark.parametrize("name", ["factor", "provider", "key_name"])
def test_values_appear_in_message(name: str) -> None:
    values: dict[str, Any] = {name: "a-value"}
    assert any("a-value" in _said(kind, **values).text for kind in MessageKind)


@pytest.mark.parametrize("kind", list(MessageKind))
def test_html_escapes_values_and_evaluates_nothing(kind: MessageKind) -> None:
    said = _said(kind, product="<b>&{{ 7*7 }}")
    assert "<b>" not in said.html
    assert "&lt;b&gt;&amp;{{ 7*7 }}" in said.html
    assert "<b>&{{ 7*7 }}" in said.text


def test_html_escapes_display_names() -> None:
    said = _said(MessageKind.PASSWORD_CHANGED, display_name="Ada & \"Co\" 'x'")
    assert "Hello Ada &amp; &#34;Co&#34; &#39;x&#39;," in said.html
    assert "Hello Ada & \"Co\" 'x'," in said.text


@pytest.mark.parametrize(
    "name",
    [
        _EVIL,
        "Win at https://evil.test",
        "evil.test",
        "www evil",
        "mail eve@evil",
        "x" * 65,
    ],
)
@pytest.mark.parametrize("kind", list(MessageKind))
def test_hostile_name_is_left_out(kind: MessageKind, name: str) -> None:
    """A stranger can sign up with somebody's address and any name at all."""
    values: dict[str, Any] = dict.fromkeys(("display_name", "factor", "provider", "key_name"), name)
    assert _said(kind, **values) == _said(kind)


@pytest.mark.parametrize("kind", [*sorted(CODE_KINDS), MessageKind.EMAIL_IN_USE])
def test_message_to_possibly_unregistered_recipient_omits_name(kind: MessageKind) -> None:
    assert "Free Money" not in _said(kind, display_name="Free Money").text


def test_multiline_name_becomes_one_line() -> None:
    said = _said(MessageKind.PASSWORD_CHANGED, display_name="Ada\r\n\r\nBcc\u2028x\u202ey")
    assert "Hello Ada Bcc x y," in said.text


def test_link_is_filled_and_quoted() -> None:
    link = "https://shop.test/in?code={code}&email={email}#x"
    said = _said(MessageKind.LOGIN_CODE, link=link)
    assert f"https://shop.test/in?code={CODE}&email=ada%40example.test#x" in said.text
    assert f'href="https://shop.test/in?code={CODE}&amp;email=ada%40example.test#x"' in said.html


@pytest.mark.parametrize(
    ("lifetime", "words"),
    [
        (timedelta(seconds=30), "1 minute."),
        (timedelta(minutes=10), "10 minutes."),
        (timedelta(minutes=90), "90 minutes."),
        (timedelta(hours=1), "1 hour."),
        (timedelta(hours=24), "1 day."),
        (timedelta(days=7), "7 days."),
    ],
)
def test_code_lifetime_is_spelled_out(lifetime: timedelta, words: str) -> None:
    message = Message(MessageKind.LOGIN_CODE, ADDRESS, None, CODE, NOW + lifetime)
    assert f"for {words}" in _SHIPPED.render(template_context(message, NOW, "P", {})).text


def test_custom_template_overrides_default(tmp_path: Path) -> None:
    (tmp_path / "login_code.txt").write_text("Subject: Dein Code\n\n{{ code }} für {{ product }}\n")
    (tmp_path / "_footer.html").write_text("<footer>Grüße</footer>")
    (tmp_path / "layout.html").write_text(
        '<main>{% block body %}{% endblock %}</main>{% include "_footer.html" %}'
    )
    renderer = TemplateRenderer(tmp_path)
    said = _said(MessageKind.LOGIN_CODE, renderer)
    assert (said.subject, said.text) == ("Dein Code", f"{CODE} für Example Shop\n")
    assert said.html.startswith("<main>")
    assert said.html.endswith("<footer>Grüße</footer>")
    unchanged = _said(MessageKind.PASSWORD_CHANGED, renderer)
    assert unchanged.text == _said(MessageKind.PASSWORD_CHANGED).text


def test_subject_is_always_one_line(tmp_path: Path) -> None:
    (tmp_path / "password_changed.txt").write_text("Subject: {{ product }}\n\nText\n")
    said = _said(
        MessageKind.PASSWORD_CHANGED, TemplateRenderer(tmp_path), product="A\rBcc: e\x0b\u2028x"
    )
    assert said.subject == "A Bcc: e x"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("login_code.txt", "No subject\n\n{{ code }}", r"login_code\.txt: it has to begin"),
        ("login_code.txt", "Subject: \n\n{{ code }}", r"login_code\.txt: it has to begin"),
        ("login_code.txt", "Subject: x\n{{ code }}", r"login_code\.txt: it has to begin"),
        ("login_code.txt", "Subject: x\n\nHi", r"login_code\.txt: it does not contain the code"),
        ("login_code.html", "<p>Hi</p>", r"login_code\.html: it does not contain the code"),
        ("login_code.html", "{{ cod }}", r"login_code.*'cod' is undefined"),
        ("login_code.html", "{% if %}", r"login_code\.html, line 1: TemplateSyntaxError"),
        ("login_code.html", '{% include "no.html" %}', r"no\.html: TemplateNotFound"),
        ("login_code.html", "{{ code + 1 }}", r"login_code.*TypeError"),
        ("login_code.html", "{{ 1 // 0 }}{{ code }}", r"login_code.*ZeroDivisionError"),
        ("login-code.txt", "Subject: x\n\n{{ code }}", r"login-code\.txt: no message"),
    ],
)
def test_broken_template_is_rejected_at_start(
    tmp_path: Path, file: str, text: str, problem: str
) -> None:
    (tmp_path / file).write_text(text)
    settings = DeliverySettings(channel="none", templates=tmp_path)
    with pytest.raises(ConfigError) as caught:
        build_transport(settings, DIRECT, FakeClock())
    assert any(
        line.startswith("delivery.templates: ") and re.search(problem, line)
        for line in caught.value.problems
    ), caught.value.problems
    assert all("\n" not in line for line in caught.value.problems)


def test_non_text_template_is_rejected_at_start(tmp_path: Path) -> None:
    (tmp_path / "login_code.txt").write_bytes(b"Subject: \xff\n\n{{ code }}")
    with pytest.raises(ConfigError, match="login_code"):
        TemplateRenderer(tmp_path)


def test_missing_folder_is_rejected_at_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        TemplateRenderer(tmp_path / "missing")


@pytest.mark.parametrize(
    ("links", "problem"),
    [
        ({"login_cod": "https://shop.test"}, "no such kind of message"),
        ({"password_changed": "https://shop.test/{code}"}, "carry no code"),
    ],
)
def test_misnamed_link_is_rejected_at_start(links: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        build_transport(DeliverySettings(links=links), DIRECT, FakeClock())
