"""A settings file and a secrets folder, complete and valid."""

import base64
import json
from pathlib import Path

import pytest

SECRET = base64.b64encode(b"an unmistakable secret of 32 byt").decode()
RING = json.dumps([{"id": "k1", "key": SECRET}])
CONFIG = """
[tls]
certificate_file = "tls.crt"
key_file = "tls.key"
client_ca_file = "ca.crt"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "database__url").write_text("postgresql://authsvc:hidden@db/authsvc\n")
    (folder / "secrets__keyring").write_text(RING)
    (folder / "secrets__peppers").write_text(RING)
    return folder
