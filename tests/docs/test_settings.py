"""The settings reference has every key, with its type and default, and examples are accepted."""

import re
import tomllib
from pathlib import Path

import pytest

from authsvc.config import load
from tests.support.documents import Page, page, pages
from tests.support.settings_reference import Row, rows

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
_KEY = '[{"id": "a", "key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}]'


def documented() -> list[Row]:
    """Return the reference's row for each key."""
    header = ("key", "type", "default", "meaning")
    return [
        Row(key.strip("`"), kind, default) for key, kind, default, _ in SETTINGS.tables(*header)
    ]


def test_every_key_is_documented_with_its_type_and_default() -> None:
    assert documented() == rows()


def test_every_key_is_explained() -> None:
    assert [key for key, _, _, meaning in SETTINGS.tables("key", "type") if not meaning] == []


@pytest.mark.parametrize("document", pages(), ids=str)
def test_named_keys_exist(document: Page) -> None:
    known = [_plain(row.key) for row in rows()]
    sections = {key.partition(".")[0] for key in known}
    for name in document.names():
        match = re.fullmatch(r"([a-z_]+)(\.[a-z_]+)+", _plain(name.partition(" = ")[0]))
        if match is None or match[1] not in sections or _is_a_file(name):
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
