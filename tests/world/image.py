"""Owns the image that tests try: from what it is built, and the settings of its containers."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from authsvc.dev.workspace import Workspace
from deploy.image import debian, recipe
from deploy.image.build import LOCK, ROOT, Source, package_names
from deploy.image.errors import ImageError
from tests.world.containers import MOUNTS
from tests.world.place import FOLDER

CACHE = FOLDER / "image"
SOURCE = Source("0123456789abcdef0123456789abcdef01234567", 1_795_000_000)
SETTINGS = {
    "AUTHSVC_CONFIG": "/etc/authsvc/config/config.toml",
    "AUTHSVC_SECRETS_DIR": "/etc/authsvc/secrets",
    # The ports of the manifests may be taken here.
    "AUTHSVC_GRPC__ADDRESS": "127.0.0.1:0",
    "AUTHSVC_HTTP__ADDRESS": "127.0.0.1:0",
}


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which one worker of a run has at a time."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def copy_lock(path: Path) -> None:
    """Copy the lock of Debian's packages, or lock anew if the archive lacks one of them."""
    CACHE.mkdir(parents=True, exist_ok=True)
    names = package_names(recipe.this_machine())
    locked = debian.read_lock(LOCK)
    try:
        debian.fetch([locked[name] for name in names], release=recipe.RELEASE, cache=CACHE)
    except ImageError as error:
        print(f"The lock is out of date: {error}")
        debian.write_lock(path, names, release=recipe.RELEASE, cache=CACHE)
    else:
        shutil.copy(LOCK, path)


def write_settings(etc: Path, workspace: Workspace) -> None:
    """Write the settings of the base, with one more caller, and secrets and certificates."""
    workspace.prepare()
    for name in MOUNTS:
        (etc / name).mkdir()
    config = (ROOT / "deploy/kubernetes/base/config.toml").read_text()
    caller = '[[callers]]\nidentity = "spiffe://authsvc.dev/issuer"\nroles = ["issuer", "app"]\n'
    (etc / "config/config.toml").write_text(f"{config}\n{caller}")
    for name in ("keyring", "peppers"):
        shutil.copy(workspace.secrets / f"secrets__{name}", etc / "secrets")
    certificates = workspace.certificates
    names = {"server.crt": "tls.crt", "server.key": "tls.key", "ca.crt": "ca.crt"}
    for source, target in names.items():
        shutil.copy(certificates / source, etc / "tls" / target)
    for suffix in ("crt", "key"):
        shutil.copy(certificates / "clients" / f"edge.{suffix}", etc / "tls")
