"""What `authsvc config show` prints is a file that says the same."""

from pathlib import Path

from authsvc.config import Settings, load
from authsvc.config.text import settings_text
from tests.config.conftest import CONFIG, SECRET

_MORE = """
[grpc]
call_timeout = "1h30m"
[http.tls]
certificate_file = "a \\"quoted\\" päth 😀"
key_file = "k"
client_ca_file = "c\\u007f"
[[callers]]
identity = "dns:a"
roles = ["issuer", "app"]
[[callers]]
identity = "dns:b"
roles = ["edge"]
audiences = ["z", "a"]
[rate_limits.policies."a.b"]
requests = 3
window = "90s"
durable = true
[delivery]
channel = "smtp"
links = { verify_email = "https://a.test/#{code}" }
[delivery.smtp]
host = "mail.test"
sender = "Ä <a@b.test>"
username = "mail"
[permissions]
admin = ["a", "b"]
nobody = []
"""


def _again(settings: Settings, config: Path, secrets: Path) -> Settings:
    config.write_text(settings_text(settings))
    return load(config, secrets_dir=secrets)


def test_shown_defaults_are_a_valid_file(config: Path, secrets: Path) -> None:
    settings = load(config, secrets_dir=secrets)
    assert _again(settings, config, secrets) == settings


def test_shown_settings_are_a_valid_file_without_secrets(config: Path, secrets: Path) -> None:
    config.write_text(CONFIG + _MORE)
    (secrets / "delivery__smtp__password").write_text("an-unmistakable-password")
    settings = load(config, secrets_dir=secrets)
    text = settings_text(settings)
    assert '# password = "**********"' in text
    assert 'call_timeout = "1h30m"' in text
    assert "unmistakable" not in text
    assert SECRET not in text
    assert _again(settings, config, secrets) == settings
    assert settings_text(_again(settings, config, secrets)) == text
