"""The settings reference has every key, with its type and default, and examples are accepted."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from authsvc.cli.doctor.table import CHECKS
from authsvc.config import ConfigError, load
from authsvc.config.loading import validate
from authsvc.config.reference import rows
from authsvc.config.text import example_text
from authsvc.conventions import SPANS
from tests.support import settings_pages
from tests.support.documents import Page, page, pages

SETTINGS = page("docs/settings.md")
EXAMPLES = [
    pytest.param(block, id=f"{document}-{number}")
    for document in pages()
    for number, block in enumerate(document.blocks("toml"))
]
_TLS = """
[tls]
certificate_file = "server.crt"
key_file = "server.key"
client_ca_file = "ca.crt"
"""
# Some subjects of `authsvc doctor` have the names of sections.
_CHECKS = {check.name for check in CHECKS}
_KEY = '[{"id": "a", "key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}]'


# Of spans, some of which begin as keys of the settings do.
_ATTRIBUTES = {attribute for span in SPANS for attribute in span.attributes}


def test_pages_are_generated_from_the_settings() -> None:
    assert settings_pages.REFERENCE.read_text() == settings_pages.reference()
    assert settings_pages.EXAMPLE.read_text() == example_text()


def test_page_has_a_table_for_every_section() -> None:
    listed = [row[0].strip("`") for row in SETTINGS.tables("key", "type", "default", "meaning")]
    assert listed == [row.key for row in rows()]


def test_example_is_accepted_when_nothing_is_commented_out(tmp_path: Path) -> None:
    text = settings_pages.EXAMPLE.read_text()
    whole = tomllib.loads(re.sub(r"^#(?! |$)", "", text, flags=re.MULTILINE))
    assert tomllib.loads(text) == {}
    missing = [
        "database.url: missing, and it has no default",
        "secrets: missing, and it has no default",
        "tokens.pkcs11.pin: missing, and it has no default",
        "delivery.webhook.secrets: missing, and it has no default",
        "oauth.providers.example.client_secret: missing, and it has no default",
        "audit.forward.webhook.secrets: missing, and it has no default",
    ]
    with pytest.raises(ConfigError) as caught:
        validate(whole)
    assert caught.value.problems == missing
    whole["database"]["url"] = "postgresql://a@b/c"
    whole["secrets"] = dict.fromkeys(("keyring", "peppers"), json.loads(_KEY))
    whole["tokens"]["pkcs11"]["pin"] = "1234"
    whole["delivery"]["webhook"]["secrets"] = ["whsec_" + "A" * 32]
    whole["audit"]["forward"]["webhook"]["secrets"] = ["whsec_" + "A" * 32]
    whole["oauth"]["providers"]["example"]["client_secret"] = "secret"
    validate(whole)


@pytest.mark.parametrize("document", pages(), ids=str)
def test_named_keys_exist(document: Page) -> None:
    known = [_plain(row.key) for row in rows()]
    sections = {key.partition(".")[0] for key in known}
    for name in document.names():
        match = re.fullmatch(r"([a-z_]+)(\.[a-z_]+)+", _plain(name.partition(" = ")[0]))
        if match is None or match[1] not in sections or _is_a_file(name):
            continue
        if name in _CHECKS or name in _ATTRIBUTES:
            continue
        assert any(f"{key}.".startswith(f"{match[0]}.") for key in known), name


def _plain(key: str) -> str:
    """Return a key without the parts that an operator chooses."""
    return re.sub(r"\[\]|\.(NAME|ROLE)\b|\.\*$", "", key)


def _is_a_file(name: str) -> bool:
    return name.endswith((".py", ".crt", ".key"))


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_accepted(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AUTHSVC_CONFIG", "AUTHSVC_SECRETS_DIR"):
        monkeypatch.delenv(name, raising=False)
    file, secrets = tmp_path / "config.toml", tmp_path / "secrets"
    secrets.mkdir()
    values = tomllib.loads(example)
    file.write_text(example if "tls" in values else example + _TLS)
    # The values that belong in the secrets folder according to the pages.
    given = {"database__url": "postgresql://a@b/c"}
    given |= dict.fromkeys(("secrets__keyring", "secrets__peppers"), _KEY)
    if values.get("delivery", {}).get("smtp", {}).get("username"):
        given["delivery__smtp__password"] = "password"
    for name in values.get("oauth", {}).get("providers", {}):
        given[f"oauth__providers__{name}__client_secret"] = "secret"
    for name, value in given.items():
        (secrets / name).write_text(value)
    load(file, secrets_dir=secrets)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5
