"""Owns Debian's packages in the image: the lock that pins them, their download, their unpacking."""

import hashlib
import io
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from deploy.image.apt import Apt, AptError
from deploy.image.errors import ImageError

_HEAD = """\
# Debian's packages in the image, and those that it is built with, as `make image-lock` found them:
# name, version, architecture and SHA-256 of the file.
"""
_LINE = re.compile(r"(\S+) (\S+) (\S+) sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """A file of Debian's, pinned by its hash."""

    name: str
    version: str
    architecture: str
    sha256: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what a downloaded file says of itself."""
        fields = ("Package", "Version", "Architecture")
        name, version, architecture = (_dpkg_deb("--field", path, each) for each in fields)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return cls(name.decode(), version.decode(), architecture.decode(), digest)

    def __str__(self) -> str:
        return f"{self.name} {self.version} {self.architecture} sha256:{self.sha256}"


def read_lock(path: Path) -> dict[str, Package]:
    """Return the locked packages by name.

    Raises:
        ImageError: A line has another form.
    """
    packages = {}
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise ImageError(f"{path.name} has a line that is no locked package: {line!r}")
        packages[found[1]] = Package(*found.groups())
    return packages


def write_lock(path: Path, names: Iterable[str], *, release: str, cache: Path) -> None:
    """Lock the newest version of each package in the archive of `release`."""
    apt = Apt(cache / f"apt-{release}", release)
    apt.update()
    with tempfile.TemporaryDirectory(dir=cache) as name:
        folder = Path(name)
        apt.download([*names], folder)
        packages = []
        for file in folder.iterdir():
            packages.append(Package.read(file))
            file.rename(_cached(cache, packages[-1]))
    path.write_text(_HEAD + "".join(f"{package}\n" for package in sorted(packages)))


def fetch(packages: Sequence[Package], *, release: str, cache: Path) -> list[Path]:
    """Return the files of the packages, downloading those that `cache` lacks.

    Raises:
        ImageError: The archive has no such version any more, or a file with another hash.
    """
    missing = [package for package in packages if not _cached(cache, package).is_file()]
    if missing:
        apt = Apt(cache / f"apt-{release}", release)
        apt.update()
        with tempfile.TemporaryDirectory(dir=cache) as name:
            folder = Path(name)
            try:
                apt.download([f"{package.name}={package.version}" for package in missing], folder)
            except AptError as error:
                raise ImageError(
                    f"{error}\nRun `make image-lock` for what Debian has now"
                ) from error
            found = {Package.read(file): file for file in folder.iterdir()}
            for package in missing:
                if package not in found:
                    raise ImageError(f"the archive's {package.name} is not the locked one")
                found[package].rename(_cached(cache, package))
    return [_cached(cache, package) for package in packages]


def unpack(file: Path, folder: Path, omitted: re.Pattern[str] | None = None) -> None:
    """Unpack a package into `folder`, without the files whose path `omitted` matches.

    Its scripts don't run, and empty folders and special files are not unpacked.
    """
    with tarfile.open(fileobj=io.BytesIO(_dpkg_deb("--fsys-tarfile", file))) as archive:
        for member in archive:
            name = member.name.removeprefix("./").rstrip("/")
            if not name or member.isdir() or (omitted is not None and omitted.fullmatch(name)):
                continue
            _extract(archive, member, folder, name)


def note_package(package: str, file: Path, folder: Path) -> None:
    """Note in `folder` that the package is there, as scanners of images expect it.

    dpkg's own database is one file; images without dpkg have one for each package instead.
    """
    notes = folder / "var/lib/dpkg/status.d"
    notes.mkdir(parents=True, exist_ok=True)
    (notes / package).write_bytes(_dpkg_deb("--info", file, "control"))
    sums = _dpkg_deb("--info", file, "md5sums").decode()
    (notes / f"{package}.md5sums").write_text("".join(_present(sums, folder)))


def _present(sums: str, folder: Path) -> Iterator[str]:
    for line in sums.splitlines(keepends=True):
        if (folder / line.split(maxsplit=1)[1].rstrip("\n")).exists():
            yield line


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, name: str) -> None:
    target = folder / name
    # A link in the tree, such as /var/run, may lead out of the folder.
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise ImageError(f"a package has a file outside of the image: {name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        target.symlink_to(member.linkname)
        return
    # A hard link's content is that of the file that it names.
    content = archive.extractfile(member)
    if content is None:
        raise ImageError(f"a package contains a special file: {member.name}")
    target.write_bytes(content.read())
    target.chmod(0o755 if member.mode & 0o100 else 0o644)


def _cached(cache: Path, package: Package) -> Path:
    return cache / f"{package.sha256}.deb"


def _dpkg_deb(action: str, path: Path, *more: str) -> bytes:
    done = subprocess.run(  # noqa: S603 - Debian's own program
        ["dpkg-deb", action, str(path), *more],  # noqa: S607 - wherever it is
        check=True,
        capture_output=True,
    )
    return done.stdout.rstrip(b"\n") if action == "--field" else done.stdout
