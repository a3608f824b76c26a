"""Owns the settings as TOML: those in force, and an example of all of them."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from types import MappingProxyType
from typing import Any

from authsvc.config.reference import Row, rows
from authsvc.config.settings import Settings

# What pydantic writes in place of a secret.
_MASK = "**********"
_WIDTH = 100
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_HEAD = """\
# The settings in force. Lines of secrets are comments, as these belong in the secrets folder; lines
# without a value are those of settings that are not set.
"""
_EXAMPLE_HEAD = """\
# Every setting, with its default, or an example where it has none. Secrets are only named: they
# belong in the secrets folder. Remove the # before what you need, table headers included.
"""
# For what has no default, by its key or the end of it.
_EXAMPLES: Mapping[str, Any] = MappingProxyType(
    {
        "retention.addresses": "30d",
        "breached.address": "https://api.pwnedpasswords.com/range",
        "certificate_file": "/etc/authsvc/tls/tls.crt",
        "key_file": "/etc/authsvc/tls/tls.key",
        "client_ca_file": "/etc/authsvc/tls/ca.crt",
        "ca_file": "/etc/ssl/certs/ca-certificates.crt",
        "identity": "spiffe://cluster.local/ns/shop/sa/frontend",
        "roles": ["app"],
        "pkcs11.module": "/usr/lib/softhsm/libsofthsm2.so",
        "pkcs11.token": "authsvc",
        "requests": 100,
        "window": "1m",
        "delivery.folder": "/var/lib/authsvc/messages",
        "delivery.templates": "/etc/authsvc/templates",
        "delivery.smtp.host": "mail.example.com",
        "hello_name": "auth.example.com",
        "sender": "Example <login@example.com>",
        "delivery.webhook.url": "https://hooks.example.com/authsvc",
        "audit.forward.syslog.host": "logs.example.com",
        "audit.forward.webhook.url": "https://hooks.example.com/audit",
        "delivery.links": {"verify_email": "https://www.example.com/verify#{code}"},
        "providers.NAME.kind": "oidc",
        "client_id": "authsvc",
        "providers.NAME.address": "https://accounts.example.com",
        "outbound.no_proxy": [".internal", "10.0.0.0/8"],
        "api_keys.policy": "api",
        "telemetry.otlp_endpoint": "https://collector.example.com:4317",
        "resource_attributes": {"deployment.environment.name": "production"},
        "unverified_accounts": "60d",
        "cookie.domain": "example.com",
        # The default name excludes a domain.
        "cookie.name": "__Secure-session",
    }
)
_NAMES = MappingProxyType({"NAME": "example", "ROLE": "user"})


def settings_text(settings: Settings) -> str:
    """Return the settings in force as a file, which is valid beside the same secrets folder."""
    return _HEAD + "\n".join(_table(settings.model_dump(mode="json"), ())) + "\n"


def _table(values: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    if path:
        yield f"\n[{'.'.join(map(_key, path))}]"
    for name, value in values.items():
        if not isinstance(value, dict):
            yield _line(name, value)
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _table(value, (*path, name))


def _line(name: str, value: Any) -> str:
    if value is None:
        return f"# {_key(name)} ="
    line = f"{_key(name)} = {_value(value)}"
    return f"# {line}" if _MASK in line else line


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        pairs = (f"{_key(name)} = {_value(inner)}" for name, inner in value.items())
        return f"{{{', '.join(pairs)}}}"
    # JSON's escapes are those of TOML, which also needs one for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def example_text() -> str:
    """Return a file with every key and its meaning, in which all settings are commented out."""
    tables: dict[str, list[Row]] = {}
    for row in rows():
        tables.setdefault(row.key.rpartition(".")[0], []).append(row)
    return _EXAMPLE_HEAD + "".join(
        f"\n\n{_header(table, entries)}\n{''.join(map(_entry, entries))}"
        for table, entries in tables.items()
    )


def _header(table: str, entries: Sequence[Row]) -> str:
    names = _named(table.removesuffix("[]"))
    header = f"[[{names}]]" if table.endswith("[]") else f"[{names}]"
    # A table of nothing but secrets has no place in the file.
    return f"# {header}" if all(map(_is_secret, entries)) else f"#{header}"


def _entry(row: Row) -> str:
    # A link would lead nowhere.
    meaning = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", row.meaning)
    about = "".join(f"\n# {line}" for line in wrap(f"{meaning} Type: {row.kind}.", _WIDTH - 2))
    if _is_secret(row):
        file = _named(row.key.partition("[]")[0]).replace(".", "__")
        return f"{about}\n# In the secrets folder: {file}\n"
    return f"{about}\n#{_named(row.key).rpartition('.')[2]} = {_value(_example(row))}\n"


def _named(key: str) -> str:
    return ".".join(_NAMES.get(name, name) for name in key.split("."))


def _is_secret(row: Row) -> bool:
    return "secret" in row.kind or row.key.startswith("secrets.")


def _example(row: Row) -> Any:
    found = (value for key, value in _EXAMPLES.items() if f".{row.key}".endswith(f".{key}"))
    return next(found, row.value)
