"""The delivery settings: which are rejected on loading, and with which error."""

import base64
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from authsvc.config import ConfigError, DeliverySettings, SmtpSettings, load

_SENDER = "Example <login@shop.test>"


def _refused(**settings: object) -> str:
    with pytest.raises(ValidationError) as caught:
        DeliverySettings.model_validate(settings)
    return str(caught.value)


def _smtp(**settings: object) -> dict[str, object]:
    return {"host": "mail.shop.test", "sender": _SENDER} | settings


@pytest.mark.parametrize("channel", ["folder", "smtp", "webhook"])
def test_channel_requires_its_settings(channel: str) -> None:
    assert f"channel is '{channel}', so {channel} must be set" in _refused(channel=channel)


def test_remote_delivery_requires_encryption() -> None:
    assert "this machine only" in _refused(smtp=_smtp(tls="off"))
    for host in ("localhost", "127.0.0.1", "::1"):
        assert SmtpSettings.model_validate(_smtp(tls="off", host=host)).tls == "off"


@pytest.mark.parametrize("half", [{"username": "a"}, {"password": "an-unmistakable-password"}])
def test_username_and_password_must_be_set_together(half: dict[str, str]) -> None:
    said = _refused(smtp=_smtp(**half))
    assert "username and password must both be set, or neither" in said


@pytest.mark.parametrize(
    "sender",
    ["nobody", "Example", "a@b\r\nBcc: c@d", "Ex\nample <a@b.test>", "jörg@b.test", "a b@c.test"],
)
def test_sender_must_be_one_address(sender: str) -> None:
    assert "expected an address such as" in _refused(smtp=_smtp(sender=sender))


@pytest.mark.parametrize("sender", ["a@b.test", _SENDER, '"A, B" <a@b.test>', "Grüße <a@b.test>"])
def test_valid_senders_are_accepted(sender: str) -> None:
    assert SmtpSettings.model_validate(_smtp(sender=sender)).sender == sender


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.shop.test/",
        "ftp://hooks.shop.test/",
        "https://",
        "https://user@host/",
        "hooks",
    ],
)
def test_webhook_must_be_https_or_local(url: str) -> None:
    secret = "whsec_" + base64.b64encode(bytes(32)).decode()
    assert "webhook.url" in _refused(webhook={"url": url, "secrets": [secret]})


@pytest.mark.parametrize(
    "link",
    [
        "http://shop.test/{code}",
        "javascript:alert(1)",
        "https://shop.test/{password}",
        "https://{code}.shop.test/",
        "https://shop.test/a b",
        "https://shop.test.evil@host/",
    ],
)
def test_link_must_be_url_with_known_placeholders(link: str) -> None:
    assert "links.login_code" in _refused(links={"login_code": link})


@pytest.mark.parametrize(
    "link", ["https://shop.test/in#{code}", "http://localhost:8080/?c={code}&e={email}"]
)
def test_valid_links_are_accepted(link: str) -> None:
    assert DeliverySettings(links={"login_code": link}).links["login_code"] == link


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"first_retry": "0s"}, "first_retry"),
        ({"first_retry": "1h", "longest_retry": "1m"}, "first_retry"),
        ({"abandon_after": "1s"}, "abandon_after"),
        ({"abandon_after": "31d"}, "abandon_after"),
        ({"smtp": _smtp(timeout="0s")}, "timeout"),
        ({"smtp": _smtp(timeout="1h")}, "timeout"),
        ({"parallel": 0}, "parallel"),
    ],
)
def test_durations_and_numbers_are_validated(settings: dict[str, object], problem: str) -> None:
    assert problem in _refused(**settings)


def test_environment_variables_can_set_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    key = json.dumps([{"id": "k1", "key": base64.b64encode(bytes(32)).decode()}])
    variables = {
        "tls": '{"certificate_file": "c", "key_file": "k", "client_ca_file": "a"}',
        "database__url": "postgresql://localhost/none",
        "secrets__keyring": key,
        "secrets__peppers": key,
        "delivery__channel": "smtp",
        "delivery__smtp__host": "mail.shop.test",
        "delivery__smtp__sender": _SENDER,
        "delivery__smtp__username": "authsvc",
        "delivery__smtp__password": "an-unmistakable-password",
        "delivery__links__login_code": "https://shop.test/in#{code}",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"AUTHSVC_{name}".upper(), value)
    delivery = load().delivery
    assert delivery.smtp is not None
    assert (delivery.smtp.host, delivery.smtp.username) == ("mail.shop.test", "authsvc")
    assert delivery.links == {"login_code": "https://shop.test/in#{code}"}

    monkeypatch.setenv("AUTHSVC_DELIVERY__SMTP__PASWORD", "misspelt")
    with pytest.raises(ConfigError, match=r"AUTHSVC_DELIVERY__SMTP__PASWORD: no such setting"):
        load()


def test_repr_hides_password(tmp_path: Path) -> None:
    smtp = _smtp(username="a", password="an-unmistakable-password", ca_file=tmp_path)
    assert "unmistakable" not in repr(DeliverySettings.model_validate({"smtp": smtp}))
