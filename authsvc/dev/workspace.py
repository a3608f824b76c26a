"""Owns `.authsvc/`: the settings and secrets that a developer's service runs with.

What is there is kept, so it may be edited; what is missing is made.
"""

import base64
import json
import os
import secrets
from pathlib import Path

from authsvc.dev import certificates

# The provider of identities that is `authsvc.dev.provider`, and the service as its client.
PROVIDER_HOST, PROVIDER_PORT = "127.0.0.1", 8090
PROVIDER_CLIENT = "authsvc-dev"
REDIRECT_URI = "http://localhost:8080/callback"

_CONFIG = """\
# Made by `authsvc dev`. Change what you like: it is kept, and callers and limits are taken over
# while the service runs. `authsvc config schema` describes every setting.

[tls]
certificate_file = {certificate}
key_file = {key}
client_ca_file = {ca}

[tokens]
issuer = "http://127.0.0.1:8081"

# A file for each message to a user; what it says is in the log too.
[delivery]
channel = "folder"
folder = {messages}

# `make demo` runs this provider of identities; the secret of the client is in secrets/.
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
# In development each client holds its own role; an issuer has to be an app too.
_ROLES = {
    "app": ["app"],
    "edge": ["edge"],
    "issuer": ["issuer", "app"],
    "admin": ["admin"],
    "observer": ["observer"],
}
# What tokens for themselves they may ask for, and for whom: a service of the tour.
_TOKENS = {
    "app": 'audiences = ["billing"]\nscopes = ["invoices.read", "invoices.write"]\n',
    "edge": 'audiences = ["billing"]\nscopes = ["invoices.read"]\n',
}


class Workspace:
    """The folder of a developer's service."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificates = folder / "certs"
        self.config = folder / "config.toml"
        self.secrets = folder / "secrets"

    def prepare(self) -> None:
        """Make certificates, secrets and settings where they are missing."""
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
        # Settings of a provider that are only its secret would be refused.
        in_settings = "[oauth.providers.local]" in self.config.read_text()
        if in_settings and not self.provider_secret.exists():
            write_private(self.provider_secret, secrets.token_urlsafe())

    @property
    def provider_secret(self) -> Path:
        """The secret of the service at the provider of identities of `authsvc.dev.provider`."""
        return self.secrets / _PROVIDER_SECRET

    def set_database(self, url: str) -> None:
        """Keep the database's address for the other commands."""
        write_private(self.secrets / "database__url", url)

    def _default_config(self) -> str:
        callers = "".join(
            _CALLER.format(name=name, roles=json.dumps(roles), tokens=_TOKENS.get(name, ""))
            for name, roles in _ROLES.items()
        )
        return _CONFIG.format(
            certificate=json.dumps(str(self.certificates / "server.crt")),
            key=json.dumps(str(self.certificates / "server.key")),
            ca=json.dumps(str(self.certificates / "ca.crt")),
            messages=json.dumps(str(self.folder / "messages")),
            redirect_uri=json.dumps(REDIRECT_URI),
            provider=json.dumps(f"http://{PROVIDER_HOST}:{PROVIDER_PORT}"),
            client_id=json.dumps(PROVIDER_CLIENT),
            callers=callers,
        )


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, in one step and never half."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    scratch.replace(path)
