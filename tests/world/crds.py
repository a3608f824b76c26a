"""Owns the definitions of other projects' kinds: their CRDs, out of their modules of Go.

Each is copied into .venv/world by the client of Go's registry, which has to be on the PATH.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.world.place import FOLDER, WorldError


class _Loader(yaml.SafeLoader):
    """Takes "=" for text, of which YAML 1.1 makes something that nobody uses."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda _, node: node.value)


def download_module(module: str) -> Path:
    """Return the folder with a version of a module of Go; raises WorldError."""
    client = shutil.which("go")
    if client is None:
        raise WorldError(f"{module} is downloaded by go, which is not on the PATH")
    FOLDER.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [client, "mod", "download", "-json", module],
        cwd=FOLDER,  # A folder without a module of its own.
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise WorldError(f"{module}: go failed:\n{done.stdout}{done.stderr}")
    return Path(json.loads(done.stdout)["Dir"])


@dataclass(frozen=True)
class Crds:
    """The CRDs in a `folder` of a version of a module."""

    name: str
    module: str
    folder: str

    @property
    def _copy(self) -> Path:
        return FOLDER / "crds" / self.name

    @property
    def _note(self) -> Path:
        return self._copy / "installed.txt"

    def is_installed(self) -> bool:
        return self._note.is_file() and self._note.read_text() == self._wanted

    @property
    def _wanted(self) -> str:
        return f"{self.module}\n{self.folder}"

    def find(self, kind: str, api: str) -> Mapping[str, Any] | None:
        """Return the schema of a kind, or None if it isn't theirs; raises WorldError."""
        if not self.is_installed():
            raise WorldError(f"{self.name} is missing: run `python -m tests.world.install`")
        file = self._file(kind, api)
        return json.loads(file.read_text()) if file.is_file() else None

    def definitions(self) -> Sequence[Path]:
        """Return the files that define all of them in a cluster."""
        return sorted(self._copy.glob("*.yaml"))

    def _file(self, kind: str, api: str) -> Path:
        return self._copy / f"{kind}.{api.replace('/', '.')}.json"

    def install(self) -> None:
        """Install them unless they are there; raises WorldError."""
        if self.is_installed():
            return
        print(f"Installing the CRDs of {self.name} …", flush=True)
        source = download_module(self.module) / self.folder
        shutil.rmtree(self._copy, ignore_errors=True)
        self._copy.mkdir(parents=True)
        for path in source.glob("*.yaml"):
            for document in yaml.load_all(path.read_text(), _Loader):
                if not document or document.get("kind") != "CustomResourceDefinition":
                    continue
                (self._copy / path.name).write_text(path.read_text())
                group, kind = document["spec"]["group"], document["spec"]["names"]["kind"]
                for version in document["spec"]["versions"]:
                    schema = json.dumps(version["schema"]["openAPIV3Schema"])
                    self._file(kind, f"{group}/{version['name']}").write_text(schema)
        self._note.write_text(self._wanted)


CRDS = (
    Crds("cert-manager", "github.com/cert-manager/cert-manager@v1.21.2", "deploy/crds"),
    Crds("trust-manager", "github.com/cert-manager/trust-manager@v0.25.0", "deploy/crds"),
    Crds(
        "external-secrets",
        "github.com/external-secrets/external-secrets@v1.3.2",
        "config/crds/bases",
    ),
    Crds(
        "prometheus-operator",
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "example/prometheus-operator-crd",
    ),
    Crds("gateway-api", "sigs.k8s.io/gateway-api@v1.6.3", "config/crd/standard"),
)
# For deploy/examples.
EXAMPLES = (
    Crds(
        "cloudnative-pg-backups",
        "github.com/cloudnative-pg/plugin-barman-cloud@v0.15.0",
        "config/crd/bases",
    ),
    Crds(
        "envoy-gateway",
        "github.com/envoyproxy/gateway@v1.9.1",
        "charts/gateway-helm/charts/crds/crds/generated",
    ),
    Crds("argo-cd", "github.com/argoproj/argo-cd/v3@v3.4.0", "manifests/crds"),
)
