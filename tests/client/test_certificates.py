"""Files that can't serve a handshake are refused in one line, which shows no key."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from authsvc.client.certificates import CertificateError, Certificates
from tests.support.certificates import Authority
from tests.support.clients import TlsFiles
from tests.support.probe import identity_of

Spoil = Callable[[Path, Authority], None]


def missing(folder: Path, _: Authority) -> None:
    (folder / "client.key").unlink()


def no_certificate(folder: Path, _: Authority) -> None:
    (folder / "client.crt").write_text("-----BEGIN CERTIFICATE-----\nMIIB\n")


def no_authority(folder: Path, _: Authority) -> None:
    (folder / "ca.crt").write_text("")


def no_key(folder: Path, _: Authority) -> None:
    (folder / "client.key").write_text("hunter2")


def encrypted(folder: Path, _: Authority) -> None:
    path = folder / "client.key"
    key = load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2"))
    )


def of_another(folder: Path, authority: Authority) -> None:
    (folder / "client.key").write_bytes(authority.caller("x:y").key)


def expired(folder: Path, authority: Authority) -> None:
    past = authority.caller(identity_of("app"), datetime(2021, 2, 3, 4, 5, tzinfo=UTC))
    TlsFiles(folder, authority).write(past)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (missing, "client.key: No such file or directory"),
        (no_certificate, "client.crt: not a certificate in PEM"),
        (no_authority, "ca.crt: not a certificate in PEM"),
        (no_key, "client.key: not a private key in PEM without a password"),
        (encrypted, "client.key: not a private key in PEM without a password"),
        (of_another, "client.key: not the key of {folder}/client.crt"),
        (expired, "client.crt: expired at 2021-02-03 04:05 UTC"),
    ],
)
def test_unusable_files_are_refused(
    spoil: Spoil, said: str, app_files: TlsFiles, authority: Authority
) -> None:
    good = Certificates(**app_files.parameters)
    spoil(app_files.folder, authority)
    expected = f"{app_files.folder}/{said.format(folder=app_files.folder)}"
    with pytest.raises(CertificateError) as caught:
        Certificates(**app_files.parameters)
    assert str(caught.value) == expected
    assert caught.value.__cause__ is None
    # And those in use stay in use.
    before = good._contents
    assert not good.reload()
    assert good._contents is before


def test_untouched_and_rewritten_files_are_no_change(app_files: TlsFiles) -> None:
    certificates = Certificates(**app_files.parameters)
    assert not certificates.reload()
    path = app_files.folder / "client.crt"
    path.write_bytes(path.read_bytes())
    assert not certificates.reload()
    app_files.write_for("app")
    assert certificates.reload()
    assert not certificates.reload()


def test_files_behind_a_link_are_followed(app_files: TlsFiles, tmp_path: Path) -> None:
    """As Kubernetes replaces those of a secret: all at once, by another link."""
    link = tmp_path / "..data"
    link.symlink_to(app_files.folder)
    paths = {name: link / path.name for name, path in app_files.parameters.items()}
    certificates = Certificates(**paths)
    other = TlsFiles(tmp_path / "new", app_files.authority)
    other.folder.mkdir()
    (other.folder / "ca.crt").write_bytes(app_files.authority.certificate)
    other.write_for("app")
    link.unlink()
    link.symlink_to(other.folder)
    assert certificates.reload()
