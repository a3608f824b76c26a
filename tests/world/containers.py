"""Owns containers of the built image: its root file system, read-only, with settings, as a process.

Bubblewrap runs them in namespaces of their own, by an ordinary user without capabilities who can't
get more; only the network is the machine's. umoci reads the image, so that its format is checked by
another program than the one that wrote it.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.support.processes import Program
from tests.world.install import BUBBLEWRAP, UMOCI

USER = 65532
_IS_ROOT = os.geteuid() == 0
# Root becomes the image's user first, and everybody else is mapped to it.
_BECOME = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups") if _IS_ROOT else ()
_NAMESPACES = (
    *("--unshare-user", "--uid", str(USER), "--gid", str(USER), "--cap-drop", "ALL"),
    *("--unshare-pid", "--as-pid-1", "--unshare-ipc", "--unshare-uts"),
    *("--die-with-parent", "--new-session"),
)
# The folders that the manifests for Kubernetes mount.
MOUNTS = ("config", "secrets", "tls")


@dataclass(frozen=True)
class Bundle:
    """An image, unpacked: the layout with its blobs, and what umoci made of it."""

    folder: Path

    @property
    def layout(self) -> Path:
        """The image layout that the image's file contains."""
        return self.folder / "layout"

    @property
    def root(self) -> Path:
        """The root file system."""
        return self.folder / "bundle" / "rootfs"

    @cached_property
    def index(self) -> dict[str, Any]:
        """The index's entry for the image."""
        [found] = json.loads((self.layout / "index.json").read_text())["manifests"]
        return dict(found)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest that the index leads to."""
        return self._blob(self.index)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The image's configuration."""
        return self._blob(self.manifest["config"])

    @cached_property
    def process(self) -> dict[str, Any]:
        """The process that a runtime would start, as umoci understands the configuration."""
        found: dict[str, Any] = json.loads((self.root.with_name("config.json")).read_text())[
            "process"
        ]
        return found

    @property
    def layers(self) -> list[Path]:
        """The files of the layers, the lowest first."""
        return [self._path(layer) for layer in self.manifest["layers"]]

    def _path(self, descriptor: Mapping[str, Any]) -> Path:
        return self.layout / "blobs" / str(descriptor["digest"]).replace(":", "/")

    def _blob(self, descriptor: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._path(descriptor).read_text())
        return found


@contextmanager
def public_folder() -> Iterator[Path]:
    """A temporary folder that the image's user may enter, unlike those of pytest."""
    with TemporaryDirectory(prefix="authsvc-image-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def give_to_group(folder: Path) -> None:
    """Let the image's group read all files in `folder`, and nobody else, as `fsGroup` does."""
    for path in (folder, *folder.rglob("*")):
        if _IS_ROOT:
            os.chown(path, -1, USER)
        path.chmod(0o750 if path.is_dir() else 0o440)


def unpack(archive: Path, folder: Path) -> Bundle:
    """Unpack an image into a new folder."""
    bundle = Bundle(folder)
    bundle.layout.mkdir(parents=True)
    subprocess.run(["tar", "-xf", archive, "-C", bundle.layout], check=True)
    name = f"{bundle.layout}:{bundle.index['annotations']['org.opencontainers.image.ref.name']}"
    subprocess.run(
        [*UMOCI.command(), "unpack", "--rootless", "--image", name, bundle.root.parent],
        check=True,
        capture_output=True,
    )
    bundle.root.parent.chmod(0o755)
    return bundle


def why_no_namespaces() -> str | None:
    """Return why this machine lets ordinary users make no namespaces, or None if it does."""
    with ExitStack() as held:
        command, keep = _bubblewrap(held)
        done = subprocess.run(
            [*command, *_NAMESPACES, "--ro-bind", "/", "/", "--proc", "/proc", "--", "true"],
            pass_fds=keep,
            check=False,
            capture_output=True,
            text=True,
        )
    return done.stderr.strip() if done.returncode else None


class Container:
    """A container that runs `command`, by default the image's own, with `etc` at /etc/authsvc.

    `pid` is its first process as seen from here.
    """

    def __init__(
        self, bundle: Bundle, etc: Path, command: Sequence[str] = (), **environment: str
    ) -> None:
        start = bundle.process
        assert start["user"] == {"uid": USER, "gid": USER}
        variables = dict(each.split("=", 1) for each in start["env"]) | environment
        reader, writer = os.pipe()
        with ExitStack() as held:
            held.callback(os.close, writer)
            bubblewrap, keep = _bubblewrap(held)
            options = [*_NAMESPACES, "--info-fd", str(writer), "--ro-bind", str(bundle.root), "/"]
            for name in MOUNTS:
                options += ["--ro-bind", str(etc / name), f"/etc/authsvc/{name}"]
            options += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
            options += ["--chdir", start["cwd"], "--clearenv"]
            for name, value in variables.items():
                options += ["--setenv", name, value]
            self.process = Program(
                [*bubblewrap, *options, "--", *(command or start["args"])],
                os.environ,
                [*keep, writer],
            )
        with os.fdopen(reader) as info:
            told = info.read()
        self.pid = int(json.loads(told)["child-pid"]) if told else 0

    def signal(self, number: int) -> None:
        """Send a signal to the container's first process, as a runtime does."""
        os.kill(self.pid, number)


def _bubblewrap(held: ExitStack) -> tuple[list[str], list[int]]:
    """Return its command and the descriptors to keep for it.

    Paths through descriptors lead past parent folders that its user may not enter.
    """
    *before, program = BUBBLEWRAP.command()
    keep = [_open(held, Path(program))]
    libraries = []
    for path in before[-1].partition("=")[2].split(":"):
        keep.append(_open(held, Path(path)))
        libraries.append(f"/proc/self/fd/{keep[-1]}")
    variable = f"LD_LIBRARY_PATH={':'.join(libraries)}"
    return [*_BECOME, "/usr/bin/env", variable, f"/proc/self/fd/{keep[0]}"], keep


def _open(held: ExitStack, path: Path) -> int:
    descriptor = os.open(path, os.O_PATH)
    held.callback(os.close, descriptor)
    return descriptor
