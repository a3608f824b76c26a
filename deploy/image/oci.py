"""Owns the format of images: an OCI image layout of one image, as one tar file.

https://github.com/opencontainers/image-spec: blobs under their digests, and an index that leads to
them. The tar file is also what `docker load` reads.
"""

import hashlib
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.image import recipe
from deploy.image.layers import Layer, entries

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True, slots=True)
class Image:
    """What an image is made of."""

    name: str
    tag: str
    architecture: str
    epoch: int
    labels: Mapping[str, str]
    layers: Sequence[Layer]

    @property
    def created(self) -> str:
        """The time of the commit, as the format spells it."""
        return f"{datetime.fromtimestamp(self.epoch, UTC):%Y-%m-%dT%H:%M:%SZ}"

    def write(self, folder: Path, archive: Path) -> str:
        """Write the layout into `folder` and as the file `archive`; return the image's digest."""
        blobs = folder / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        layers = [_move(blobs, layer.path) for layer in self.layers]
        config = _put(blobs, _CONFIG, self._config())
        manifest = _put(blobs, _MANIFEST, self._manifest(config, layers))
        index = manifest | {
            "platform": {"architecture": self.architecture, "os": "linux"},
            "annotations": {
                "org.opencontainers.image.ref.name": self.tag,
                "io.containerd.image.name": f"{self.name}:{self.tag}",
            },
        }
        _write(
            folder / "index.json", {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [index]}
        )
        _write(folder / "oci-layout", {"imageLayoutVersion": "1.0.0"})
        paths = [f"blobs/sha256/{_hex(each)}" for each in (config, *layers)]
        docker = {"Config": paths[0], "RepoTags": [f"{self.name}:{self.tag}"], "Layers": paths[1:]}
        _write(folder / "manifest.json", [docker])
        with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
            for file, entry in entries(folder, self.epoch):
                if entry.isreg():
                    with file.open("rb") as content:
                        tar.addfile(entry, content)
                else:
                    tar.addfile(entry)
        return str(manifest["digest"])

    def _config(self) -> dict[str, Any]:
        return {
            "created": self.created,
            "architecture": self.architecture,
            "os": "linux",
            "config": {
                "User": f"{recipe.USER}:{recipe.USER}",
                "ExposedPorts": {f"{port}/tcp": {} for port in recipe.PORTS},
                "Env": [f"{name}={value}" for name, value in recipe.ENVIRONMENT.items()],
                "Entrypoint": [*recipe.ENTRYPOINT],
                "Cmd": [*recipe.COMMAND],
                "WorkingDir": "/",
                "Labels": dict(self.labels),
                "StopSignal": recipe.STOP_SIGNAL,
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]},
            "history": [
                {"created": self.created, "created_by": layer.created_by} for layer in self.layers
            ],
        }

    def _manifest(self, config: dict[str, Any], layers: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": config,
            "layers": layers,
            "annotations": dict(self.labels),
        }


def _move(blobs: Path, path: Path) -> dict[str, Any]:
    """Move the file of a layer to the place that its digest names; return its descriptor."""
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    size = path.stat().st_size
    shutil.move(path, blobs / digest)
    return {"mediaType": _LAYER, "digest": f"sha256:{digest}", "size": size}


def _put(blobs: Path, kind: str, document: Mapping[str, Any]) -> dict[str, Any]:
    content = _json(document)
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}


def _write(path: Path, document: object) -> None:
    path.write_bytes(_json(document))


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _hex(descriptor: Mapping[str, Any]) -> str:
    return str(descriptor["digest"]).removeprefix("sha256:")
