"""Owns `.authsvc/`: the settings and secrets of a developer's service.

Existing files are kept, so they can be edited; missing ones are created.
"""

import base64
import json
import os
import re
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from authsvc.dev import certificates
from authsvc.dev.ports import DEFAULTS, addresses, dialled, free

# The identity provider `authsvc.dev.provider`, and the service as its client.
PROVIDER_HOST, PROVIDER_PORT = "127.0.0.1", 8090
PROVIDER_CLIENT = "authsvc-dev"
REDIRECT_URI = "http://localhost:8080/callback"

_CONFIG = """\
# Created by `authsvc dev`, which keeps your changes. Changes to callers and limits take effect
# while the service runs. `authsvc config example` describes all settings.

# `authsvc dev --grpc ADDRESS --http ADDRESS` writes other addresses here, and the issuer with them.

[tls]
certificate_file = {certificate}
key_file = {key}
client_ca_file = {ca}

[tokens]
issuer = {issuer}

# One file per message to a user; its text is logged too.
[delivery]
channel = "folder"
folder = {messages}

# `make demo` waits for a detection.
[detections]
interval = "1s"

# `make demo` runs this identity provider; the client secret is in secrets/.
[oauth]
redirect_uris = [{redirect_uri}]

[oauth.providers.local]
kind = "oidc"
address = {provider}
client_id = {client_id}
{callers}"""
_PROVIDER_SECRET = "oauth__providers__local__client_secret"  # noqa: S105 - the name of a file
_CALLER = """
[[callers]]
identity = "spiffe://authsvc.dev/{name}"
roles = {roles}
{tokens}"""
# In development each client has the role of its name; the issuer also needs the role app.
_ROLES = {
    "app": ["app"],
    "edge": ["edge"],
    "issuer": ["issuer", "app"],
    "admin": ["admin"],
    "observer": ["observer"],
    # The services of deploy/examples/shop.
    "shop-gateway": ["app"],
    "shop-orders": ["app"],
    "shop-payments": ["edge"],
}
# The tokens that clients may request, for services in the demo.
_TOKENS = {
    "app": 'audiences = ["billing"]\nscopes = ["invoices.read", "invoices.write"]\n',
    "edge": 'audiences = ["billing"]\nscopes = ["invoices.read"]\n',
    "shop-gateway": 'audiences = ["orders"]\n',
    "shop-orders": 'audiences = ["payments"]\n',
}


class WorkspaceError(Exception):
    """The settings of the folder can't be changed; the message says what to do."""


class Workspace:
    """The folder of a developer's service."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificates = folder / "certs"
        self.config = folder / "config.toml"
        self.secrets = folder / "secrets"

    def prepare(self) -> None:
        """Create certificates, secrets and settings that are missing.

        Raises WorkspaceError if there are settings that aren't text.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / ".gitignore").write_text("*\n")
        certificates.init(self.certificates)
        self.secrets.mkdir(mode=0o700, exist_ok=True)
        for name in ("keyring", "peppers"):
            path = self.secrets / f"secrets__{name}"
            if not path.exists():
                key = base64.b64encode(secrets.token_bytes(32)).decode()
                write_private(path, json.dumps([{"id": "dev1", "key": key}]))
        if not self.config.exists():
            write_private(self.config, self._default_config())
        # Settings of a provider that consist only of its secret would be invalid.
        in_settings = "[oauth.providers.local]" in self._config_text()
        if in_settings and not self.provider_secret.exists():
            write_private(self.provider_secret, secrets.token_urlsafe())

    @property
    def provider_secret(self) -> Path:
        """The file with the client secret for `authsvc.dev.provider`."""
        return self.secrets / _PROVIDER_SECRET

    def set_addresses(self, given: Mapping[str, str | None]) -> None:
        """Write where `grpc` and `http` listen into the settings; None leaves it as it is.

        The issuer follows, unless somebody chose another. Raises WorkspaceError if the settings are
        not TOML, or written in a way that can't be changed line by line.
        """
        before = addresses(self.folder)
        text = self._config_text()
        self._parsed(text)
        for name, address in given.items():
            if address is not None:
                text = _set(text, name, "address", free(address))
        write_private(self.config, text)
        tokens = self._parsed(text).get("tokens")
        issuer = tokens.get("issuer") if isinstance(tokens, dict) else None
        after = addresses(self.folder)
        if issuer == _issuer(before["http"]) and after["http"] != before["http"]:
            write_private(self.config, _set(text, "tokens", "issuer", _issuer(after["http"])))

    def set_database(self, url: str) -> None:
        """Store the database's URL for the other commands."""
        write_private(self.secrets / "database__url", url)

    def _config_text(self) -> str:
        try:
            return self.config.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise WorkspaceError(f"{self.config}: not TOML: not text in UTF-8") from None

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            return tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise WorkspaceError(f"{self.config}: not TOML: {error}") from None

    def _default_config(self) -> str:
        callers = "".join(
            _CALLER.format(name=name, roles=json.dumps(roles), tokens=_TOKENS.get(name, ""))
            for name, roles in _ROLES.items()
        )
        return _CONFIG.format(
            issuer=json.dumps(_issuer(DEFAULTS["http"])),
            certificate=json.dumps(str(self.certificates / "server.crt")),
            key=json.dumps(str(self.certificates / "server.key")),
            ca=json.dumps(str(self.certificates / "ca.crt")),
            messages=json.dumps(str(self.folder / "messages")),
            redirect_uri=json.dumps(REDIRECT_URI),
            provider=json.dumps(f"http://{PROVIDER_HOST}:{PROVIDER_PORT}"),
            client_id=json.dumps(PROVIDER_CLIENT),
            callers=callers,
        )


def _issuer(http: str) -> str:
    return f"http://{dialled(http)}"


def _set(text: str, table: str, key: str, value: str) -> str:
    """Return a TOML file in which a key of a table has another value, and nothing else differs."""
    line = f"{key} = {json.dumps(value)}"
    header = re.search(rf"(?m)^[ \t]*\[{table}\][ \t]*(#.*)?$", text)
    if header is None:
        changed = f"{text.rstrip()}\n\n[{table}]\n{line}\n"
    else:
        start = header.end()
        next_table = re.search(r"(?m)^[ \t]*\[", text[start:])
        end = start + next_table.start() if next_table else len(text)
        body, count = re.subn(
            rf"(?m)^[ \t]*{key}[ \t]*=.*$", lambda _: line, text[start:end], count=1
        )
        changed = text[:start] + (body if count else f"\n{line}{body}") + text[end:]
    try:
        expected = tomllib.loads(text)
        expected[table] = expected.get(table, {}) | {key: value}
        done = tomllib.loads(changed) == expected
    except (tomllib.TOMLDecodeError, TypeError):
        done = False
    if not done:
        raise WorkspaceError(f"config.toml can't be changed: set {table}.{key} = {value} by hand")
    return changed


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, atomically."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    scratch.replace(path)
