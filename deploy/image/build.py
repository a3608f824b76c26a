"""Owns the order in which an image is built: three layers, the one that changes least first."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.component import Component, ComponentType
from packageurl import PackageURL

from authsvc import __version__
from deploy.image import debian, recipe, slim, wheels
from deploy.image.base import make_base
from deploy.image.errors import ImageError
from deploy.image.layers import Layer, make_layer
from deploy.image.oci import Image
from deploy.image.staging import Interpreter
from deploy.release import sbom
from deploy.release.version import Version

ROOT = Path(__file__).parents[2]
LOCK = Path(__file__).with_name("debian.lock")
_WHEELS = ROOT / "deploy" / "requirements.lock"
# What the wheel of the service is built from, and what else decides what is in the image.
_SERVICE = ("authsvc", "pyproject.toml", "README.md")
_INPUTS = (*_SERVICE, "deploy/requirements.lock", "deploy/image", "deploy/release")


@dataclass(frozen=True, slots=True)
class Source:
    """What the image is built from: its revision, and the time stamp of all that is in it."""

    revision: str
    epoch: int

    @classmethod
    def of_checkout(cls) -> Self:
        """Return the commit of this checkout; its time, unless SOURCE_DATE_EPOCH says another.

        Raises:
            ImageError: This is no checkout.
        """
        revision = _git("rev-parse", "HEAD").strip()
        if _git("status", "--porcelain", "--", *_INPUTS):
            revision += "-dirty"
        epoch = os.environ.get("SOURCE_DATE_EPOCH") or _git("show", "-s", "--format=%ct", "HEAD")
        return cls(revision, int(epoch))


@dataclass(frozen=True, slots=True)
class Built:
    """An image that was built: its file, its bill of materials, and sizes in bytes."""

    archive: Path
    bill: Path
    digest: str
    size: int
    compressed: int


def build(output: Path, *, cache: Path, source: Source, lock: Path = LOCK) -> Built:
    """Build the image into the folder `output`; `cache` keeps what was downloaded.

    Raises:
        ImageError: Something can't be had, or isn't what the locks say.
        AptError: apt failed.
    """
    output, cache = output.resolve(), cache.resolve()
    machine = recipe.this_machine()
    names = package_names(machine)
    locked = debian.read_lock(lock)
    if missing := [name for name in names if name not in locked]:
        raise ImageError(f"{lock.name} lacks {', '.join(missing)}: run `make image-lock`")
    for folder in (cache, output):
        folder.mkdir(parents=True, exist_ok=True)
    packages = [locked[name] for name in names]
    fetched = debian.fetch(packages, release=recipe.RELEASE, cache=cache)
    files = dict(zip(names, fetched, strict=True))
    with tempfile.TemporaryDirectory(dir=cache) as name:
        work = Path(name)
        for file in files.values():
            debian.unpack(file, work / "tools")
        interpreter = Interpreter(work / "tools", machine)
        make_base(work / "base", files, recipe.PACKAGES)
        wheels.compile_all(work / "base", interpreter)
        wheels.install_locked(_WHEELS, work / "packages", machine)
        slim.omit_unused(work / "packages" / recipe.SITE_PACKAGES)
        wheels.strip(work / "packages", interpreter)
        wheels.compile_all(work / "packages", interpreter, beside=True)
        slim.drop_sources(work / "packages" / recipe.SITE_PACKAGES)
        _copy_service(work / "source")
        wheels.install_own(work / "source", work / "service", machine, source.epoch)
        wheels.compile_all(work / "service", interpreter)
        wheels.write_command(work / "service")
        bill = _bill((locked[each] for each in recipe.PACKAGES), work / "packages", source)
        _document(work / "service", bill)
        layers = [
            _layer(work / each, source, interpreter, f"{text} (deploy/image)")
            for each, text in {
                "base": f"Debian {recipe.RELEASE}: {' '.join(recipe.PACKAGES)}",
                "packages": "the wheels of deploy/requirements.lock",
                "service": f"authsvc {__version__}",
            }.items()
        ]
        compressed = sum(layer.path.stat().st_size for layer in layers)
        image = Image(
            name=recipe.TITLE,
            tag=__version__,
            architecture=machine.image,
            epoch=source.epoch,
            labels=_labels(source),
            layers=layers,
        )
        stem = f"authsvc-{__version__}-linux-{machine.image}"
        archive = output / f"{stem}.oci.tar"
        digest = image.write(work / "layout", archive)
    path = output / f"{stem}.cdx.json"
    path.write_text(bill)
    return Built(archive, path, digest, sum(layer.size for layer in layers), compressed)


def package_names(machine: recipe.Machine) -> list[str]:
    """Return all packages of Debian's that are needed, those of the image first."""
    return [*recipe.PACKAGES, *recipe.TOOLS, machine.binutils]


def _layer(folder: Path, source: Source, interpreter: Interpreter, text: str) -> Layer:
    wheels.renew_records(folder)
    return make_layer(
        folder,
        folder.with_suffix(".tar.gz"),
        epoch=source.epoch,
        interpreter=interpreter,
        created_by=text,
    )


def _copy_service(folder: Path) -> None:
    """Copy the tracked files of the service, so that nothing else gets into its wheel."""
    for name in _git("ls-files", "-z", "--", *_SERVICE).split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)


def _document(folder: Path, bill: str) -> None:
    """Put into the image what it is made of (ASVS 15.1.2)."""
    documents = folder / recipe.DOCUMENTS
    documents.mkdir(parents=True)
    (documents / "sbom.cdx.json").write_text(bill)
    shutil.copyfile(_WHEELS, documents / _WHEELS.name)


def _bill(packages: Iterable[debian.Package], folder: Path, source: Source) -> str:
    lock = _WHEELS.read_text()
    locked = {package.name for package in sbom.read_lock(lock)}
    return sbom.bill_of_materials(
        lock,
        Version.parse(__version__),
        datetime.fromtimestamp(source.epoch, UTC).date(),
        absent=locked - wheels.installed(folder),
        system=[_component(package) for package in sorted(packages)],
    )


def _component(package: debian.Package) -> Component:
    """Return a package of Debian's as a component of the bill of materials."""
    qualifiers = {"arch": package.architecture, "distro": recipe.RELEASE}
    purl = PackageURL("deb", "debian", package.name, package.version, qualifiers)
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=str(purl),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=package.sha256)],
    )


def _labels(source: Source) -> dict[str, str]:
    created = datetime.fromtimestamp(source.epoch, UTC)
    values = (
        *(recipe.TITLE, recipe.DESCRIPTION, __version__, source.revision),
        f"{created:%Y-%m-%dT%H:%M:%SZ}",
    )
    names = (f"org.opencontainers.image.{name}" for name in recipe.LABELS)
    return dict(zip(names, values, strict=True))


def _git(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - git, with arguments of this file
        ["git", *arguments],  # noqa: S607 - wherever it is
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ImageError(f"the image is built from a checkout: {done.stderr.strip()}")
    return done.stdout
