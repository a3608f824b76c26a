"""The documented commands for Kubernetes: what they create starts, with what they create.

There is no cluster: kubectl prints what it would send. The pod's containers run as processes, with
the files of the ConfigMap and the Secrets where the manifests mount them.
"""

import base64
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from authsvc.dev.postgres import EmbeddedPostgres
from tests.support.processes import Process
from tests.world.install import KUBECTL

pytestmark = pytest.mark.world

_ROOT = Path(__file__).parents[2]
_VERSION = "1.33"
# What runs in place of the programs that need a cluster or a daemon.
_KUBECTL = """#!/bin/bash
set -eu
case "$1" in
  create) {kubectl} "$@" --dry-run=client --output=yaml ;;
  apply) {kubectl} kustomize "$3" ;;
  rollout) exit 0 ;;
  *) echo "unexpected: $*" >&2; exit 1 ;;
esac >> {output}
echo --- >> {output}
"""
_AUTHSVC = """#!/bin/bash
PYTHONPATH={root} exec {python} -m authsvc "$@"
"""
_NOTHING = "#!/bin/bash\n"


class Cluster:
    """The objects that a section's commands would have created."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._output = folder / "objects.yaml"
        self._programs = folder / "programs"
        self._programs.mkdir()
        kubectl = shlex.join(KUBECTL.command())
        self._install("kubectl", _KUBECTL.format(kubectl=kubectl, output=self._output))
        self._install("authsvc", _AUTHSVC.format(root=_ROOT, python=sys.executable))
        for name in ("docker", "kind"):
            self._install(name, _NOTHING)
        shutil.copytree(_ROOT / "deploy", folder / "deploy")

    def run(self, section: str, **environment: str) -> None:
        """Run the first commands of a section of docs/kubernetes.md as they stand there."""
        text = (_ROOT / "docs" / "kubernetes.md").read_text()
        [body] = re.findall(rf"^## {section}\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
        commands = re.search(r"^```sh\n(.*?)^```", body, re.MULTILINE | re.DOTALL)
        assert commands is not None
        path = f"{self._programs}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands[1]],
            cwd=self.folder,
            env=os.environ | {"PATH": path} | environment,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def objects(self) -> list[dict[str, Any]]:
        return [found for found in yaml.safe_load_all(self._output.read_text()) if found]

    def one(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = (
            each
            for each in self.objects()
            if each["kind"] == kind and each["metadata"]["name"] == name
        )
        return found

    def mount(self, dsn: str) -> dict[str, str]:
        """Write the pod's volumes as files; return the environment of its containers.

        Only the address of the database is another.
        """
        pod = self.one("Deployment", "authsvc")["spec"]["template"]["spec"]
        [container] = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for mount in container["volumeMounts"]:
            target = self._inside(mount["mountPath"])
            target.mkdir(parents=True)
            for name, data in self._files(volumes[mount["name"]]).items():
                if name == "database__url":
                    assert data.startswith(b"postgresql://")
                    data = dsn.encode()  # noqa: PLW2901 - the one value that can't be the same here
                here = str(self._inside("/etc/authsvc")).encode()
                (target / name).write_bytes(data.replace(b"/etc/authsvc", here))
        return {
            variable["name"]: str(self._inside(variable["value"])) for variable in container["env"]
        }

    def _files(self, volume: dict[str, Any]) -> dict[str, bytes]:
        if "configMap" in volume:
            data = self.one("ConfigMap", volume["configMap"]["name"])["data"]
            return {name: text.encode() for name, text in data.items()}
        data = self.one("Secret", volume["secret"]["secretName"])["data"]
        return {name: base64.b64decode(text) for name, text in data.items()}

    def _inside(self, path: str) -> Path:
        return self.folder / "pod" / path.removeprefix("/")

    def _install(self, name: str, text: str) -> None:
        program = self._programs / name
        program.write_text(text)
        program.chmod(0o755)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def _start_pod(cluster: Cluster, dsn: str, start: Callable[..., Process]) -> Process:
    """Start the containers of the pod one after another; return the last when it serves."""
    environment = cluster.mount(dsn)
    migration = start("migrate", **environment)
    assert migration.end() == 0, migration.output
    service = start("serve", **environment, AUTHSVC_GRPC__ADDRESS="127.0.0.1:0")
    service.wait_for(r'"serving"')
    return service


def _stop(service: Process) -> None:
    service.send(signal.SIGTERM)
    assert service.end() == 0, service.output


def test_laptop_starts(
    cluster: Cluster, own_server: EmbeddedPostgres, start: Callable[..., Process]
) -> None:
    cluster.run("On a laptop")
    for each in cluster.objects():
        kubernetes_validate.validate(each, _VERSION, strict=True)
    service = _start_pod(cluster, own_server.dsn(), start)
    assert "delivery_disabled" in service.output
    target = service.wait_for(r'serving.*"grpc": ?"([^"]+)"')[1]
    certs = cluster.folder / "certs"
    arguments = [f"--ca={certs}/ca.crt", f"--cert={certs}/clients/edge.crt"]
    health = start("health", "--target", target, *arguments, f"--key={certs}/clients/edge.key")
    assert health.end() == 0, health.output
    _stop(service)


def test_production_starts(
    cluster: Cluster, own_server: EmbeddedPostgres, start: Callable[..., Process]
) -> None:
    certificates = start("certs", "init", "--folder", str(cluster.folder / "certs"))
    assert certificates.end() == 0, certificates.output
    for name, source in {
        "tls.crt": "server.crt",
        "tls.key": "server.key",
        "ca.crt": "ca.crt",
    }.items():
        shutil.copy(cluster.folder / "certs" / source, cluster.folder / name)
    cluster.run(
        "In production", DATABASE_URL="postgresql://db/authsvc", SMTP_PASSWORD="mail-password"
    )
    for each in cluster.objects():
        kubernetes_validate.validate(each, _VERSION, strict=True)
    service = _start_pod(cluster, own_server.dsn(), start)
    assert "delivery_disabled" not in service.output
    assert "mail-password" not in service.output
    _stop(service)


def test_changed_settings_replace_the_pods(cluster: Cluster) -> None:
    names = set()
    for comment in ("", "# Changed.\n"):
        config = cluster.folder / "deploy" / "kubernetes" / "base" / "config.toml"
        config.write_text(comment + config.read_text())
        cluster.run("On a laptop")
    for each in cluster.objects():
        if each["kind"] == "Deployment" and each["metadata"]["name"] == "authsvc":
            [volume] = [
                volume["configMap"]["name"]
                for volume in each["spec"]["template"]["spec"]["volumes"]
                if "configMap" in volume
            ]
            names.add(volume)
    assert len(names) == 2
