"""Owns the software bill of materials: CycloneDX JSON, made reproducibly from a lock file.

The components, their hashes and their dependencies are read from the lock of the image.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from deploy.release.version import Version

_PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_NEEDED_BY = re.compile(r"#\s+(?:via\s+)?(\S+)(?: \(pyproject\.toml\))?")


@dataclass(slots=True)
class LockedPackage:
    """A package of a lock; `needed_by` names the packages that need it, `authsvc` among them."""

    name: str
    version: str
    hashes: list[str] = field(default_factory=list)
    needed_by: list[str] = field(default_factory=list)


def read_lock(lock: str) -> Iterator[LockedPackage]:
    """Yield the packages of a requirements file that uv wrote, with hashes and annotations."""
    package: LockedPackage | None = None
    for line in lock.splitlines():
        if pinned := _PINNED.match(line):
            if package:
                yield package
            package = LockedPackage(name=pinned[1], version=pinned[2])
        elif package and (found := _HASH.search(line)):
            package.hashes.append(found[1])
        elif package and (needed := _NEEDED_BY.fullmatch(line.strip())) and needed[1] != "via":
            package.needed_by.append(needed[1])
    if package:
        yield package


def bill_of_materials(
    lock: str,
    version: Version,
    day: date,
    *,
    absent: Collection[str] = (),
    system: Collection[Component] = (),
) -> str:
    """Return the components of the service `version`, released on `day`, as CycloneDX 1.6.

    An image lacks packages of the lock that are for other systems (`absent`), and has those of its
    own beside them (`system`).
    """
    service = Component(
        name="authsvc",
        version=str(version),
        type=ComponentType.APPLICATION,
        bom_ref=f"authsvc@{version}",
    )
    components = {"authsvc": service}
    needs: dict[str, list[Component]] = defaultdict(list)
    for package in read_lock(lock):
        if package.name in absent:
            continue
        components[package.name] = component = _component(package)
        for name in package.needed_by:
            needs[name].append(component)
    parts = [component for name, component in components.items() if name != "authsvc"]
    also = "".join(f"{component.purl}\n" for component in system)
    bom = Bom(
        components=[*parts, *system],
        serial_number=uuid5(NAMESPACE_URL, f"authsvc {version}\n{lock}{also}"),
        metadata=BomMetaData(component=service, timestamp=datetime.combine(day, time(), UTC)),
    )
    for name, component in components.items():
        bom.register_dependency(component, needs[name])
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def _component(package: LockedPackage) -> Component:
    purl = PackageURL("pypi", name=package.name, version=package.version)
    # One hash per file: the source distribution and a wheel for each platform.
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=found) for found in package.hashes]
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(str(purl)),
        hashes=hashes,
    )
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=str(purl),
        external_references=[files],
    )
