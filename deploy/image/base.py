"""Owns the image's first layer: Debian's packages, and what their scripts would have made."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from deploy.image import debian, recipe

_AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"
_FOLDERS = (
    *("dev", "proc", "run", "sys", "tmp", "var/tmp"),
    # Where the manifests mount settings, for runtimes that can't make folders in a read-only root.
    *("etc/authsvc/config", "etc/authsvc/secrets", "etc/authsvc/tls"),
)
_LINKS = {
    # Where OpenSSL looks for the authorities that it trusts.
    "usr/lib/ssl/certs": "/etc/ssl/certs",
    "usr/lib/ssl/cert.pem": f"/{_AUTHORITIES}",
}


def make_base(folder: Path, files: Mapping[str, Path], packages: Iterable[str]) -> None:
    """Make the root file system of `packages`, the files of which are given by name."""
    for package in packages:
        debian.unpack(files[package], folder, recipe.OMITTED)
        debian.note_package(package, files[package], folder)
    for name in _FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, text in recipe.ACCOUNTS.items():
        (folder / name).write_text(text)
    # As update-ca-certificates does.
    authorities = sorted((folder / "usr/share/ca-certificates").rglob("*.crt"))
    bundle = folder / _AUTHORITIES
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_text("".join(path.read_text() for path in authorities))
    for name, target in _LINKS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)
