"""The documented commands for Kubernetes: what they create starts, with what they create.

There is no cluster: kubectl and helm print what they would send. The pod's containers run as
processes, with the files of the ConfigMap and the Secrets where the manifests mount them.
"""

import base64
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from authsvc.dev.postgres import EmbeddedPostgres
from tests.support.processes import Process
from tests.world.helm import render
from tests.world.install import KUBECTL
from tests.world.schemas import VERSIONS, validate
from tests.world.tools import HELM

pytestmark = pytest.mark.world

_ROOT = Path(__file__).parents[2]
# What runs in place of the programs that need a cluster or a daemon.
_KUBECTL = """#!/bin/bash
set -eu
case "$1" in
  create) {kubectl} "$@" --dry-run=client --output=yaml ;;
  apply) if [ "$2" = -k ]; then {kubectl} kustomize "$3"; else cat "$3"; fi ;;
  rollout) exit 0 ;;
  *) echo "unexpected: $*" >&2; exit 1 ;;
esac >> {output}
echo --- >> {output}
"""
_HELM = """#!/bin/bash
set -eu
case "$1 $2" in
  "upgrade --install") shift 2; {helm} template "$@" --kube-version={version}.0 ;;
  "test "*) exit 0 ;;
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
        helm = HELM.bin / "helm"
        self._install("helm", _HELM.format(helm=helm, output=self._output, version=VERSIONS[-1]))
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

    def kubectl(self, *arguments: str) -> None:
        """Run kubectl, or what takes its place, in the folder of the commands."""
        subprocess.run([self._programs / "kubectl", *arguments], cwd=self.folder, check=True)

    def create_secret(self, name: str, **files: str) -> None:
        """Add a Secret, as an operator in the cluster would."""
        literals = [f"--from-literal={key}={value}" for key, value in files.items()]
        self.kubectl("create", "secret", "generic", name, *literals)

    def objects(self) -> list[dict[str, Any]]:
        return [found for found in yaml.safe_load_all(self._output.read_text()) if found]

    def one(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = (
            each
            for each in self.objects()
            if each["kind"] == kind and each["metadata"]["name"] == name
        )
        return found

    def start(
        self, kind: str, name: str, dsn: str, start: Callable[..., Process], **environment: str
    ) -> list[Process]:
        """Start the containers of a pod, each when the one before it has ended.

        Its volumes are files. Only the address of the database is another.
        """
        found = self.one(kind, name)
        pod = found["spec"] if kind == "Pod" else found["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
        started: list[Process] = []
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            if started:
                assert started[-1].end() == 0, started[-1].output
            folder = self.folder / f"{name}-{container['name']}"
            for mount in container.get("volumeMounts", ()):
                self._mount(volumes[mount["name"]], folder, mount["mountPath"], dsn)
            given = {each["name"]: f"{folder}{each['value']}" for each in container.get("env", ())}
            started.append(start(*container["args"], **given, **environment))
        return started

    def _mount(self, volume: dict[str, Any], folder: Path, path: str, dsn: str) -> None:
        target = Path(f"{folder}{path}")
        target.mkdir(parents=True)
        for name, data in self._files(volume).items():
            if name == "database__url":
                assert data.startswith(b"postgresql://")
                data = dsn.encode()  # noqa: PLW2901 - the one value that can't be the same here
            (target / name).write_bytes(
                data.replace(b"/etc/authsvc", f"{folder}/etc/authsvc".encode())
            )

    def _files(self, volume: dict[str, Any]) -> dict[str, bytes]:
        if "configMap" in volume:
            data = self.one("ConfigMap", volume["configMap"]["name"])["data"]
            return {name: text.encode() for name, text in data.items()}
        data = self.one("Secret", volume["secret"]["secretName"])["data"]
        return {name: base64.b64decode(text) for name, text in data.items()}

    def _install(self, name: str, text: str) -> None:
        program = self._programs / name
        program.write_text(text)
        program.chmod(0o755)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


_ANYWHERE = {"AUTHSVC_GRPC__ADDRESS": "127.0.0.1:0"}


def _serving(service: Process) -> Process:
    service.wait_for(r'"serving"')
    return service


def _stop(service: Process) -> None:
    service.send(signal.SIGTERM)
    assert service.end() == 0, service.output


def _matches_schemas(cluster: Cluster) -> None:
    for each in cluster.objects():
        validate(each)


def _certificates(cluster: Cluster, start: Callable[..., Process]) -> None:
    """Put a certificate for the server where the commands of a section expect it."""
    made = start("certs", "init", "--folder", str(cluster.folder / "certs"))
    assert made.end() == 0, made.output
    names = {"tls.crt": "server.crt", "tls.key": "server.key", "ca.crt": "ca.crt"}
    for name, source in names.items():
        shutil.copy(cluster.folder / "certs" / source, cluster.folder / name)


def test_laptop_starts(
    cluster: Cluster, own_server: EmbeddedPostgres, start: Callable[..., Process]
) -> None:
    """The Job migrates, the pod serves, and the pod of `helm test` finds it ready."""
    cluster.run("On a laptop")
    _matches_schemas(cluster)
    [migration] = cluster.start("Job", "authsvc-migration", own_server.dsn(), start)
    assert migration.end() == 0, migration.output
    [service] = cluster.start("Deployment", "authsvc", own_server.dsn(), start, **_ANYWHERE)
    _serving(service)
    assert "delivery_disabled" in service.output
    target = service.wait_for(r'serving.*"grpc": ?"([^"]+)"')[1]
    http = service.wait_for(r'serving.*"http": ?"([^"]+)"')[1]
    certs = cluster.folder / "certs"
    arguments = [f"--ca={certs}/ca.crt", f"--cert={certs}/clients/edge.crt"]
    health = start("health", "--target", target, *arguments, f"--key={certs}/clients/edge.key")
    assert health.end() == 0, health.output
    [container] = cluster.one("Pod", "authsvc-test")["spec"]["containers"]
    asked = [each.replace("http://authsvc:8081", f"http://{http}") for each in container["args"]]
    assert asked != container["args"]
    test = start(*asked)
    assert test.end() == 0, test.output
    _stop(service)
    test = start(*asked)
    assert test.end() == 1, test.output


def test_production_starts(
    cluster: Cluster, own_server: EmbeddedPostgres, start: Callable[..., Process]
) -> None:
    """With the Secrets that External Secrets and cert-manager make."""
    cluster.run("In production")
    _matches_schemas(cluster)
    _certificates(cluster, start)
    keys = json.dumps([{"id": "1", "key": base64.b64encode(bytes(32)).decode()}])
    for target in (
        cluster.one("ExternalSecret", "authsvc")["spec"]["target"]["name"],
        cluster.one("ExternalSecret", "authsvc-migration")["spec"]["target"]["name"],
    ):
        cluster.create_secret(
            target,
            database__url="postgresql://db/authsvc",
            secrets__keyring=keys,
            secrets__peppers=keys,
            delivery__smtp__password="mail-password",
        )
    files = {name: (cluster.folder / name).read_text() for name in ("tls.crt", "tls.key", "ca.crt")}
    cluster.create_secret(cluster.one("Certificate", "authsvc")["spec"]["secretName"], **files)
    [migration] = cluster.start("Job", "authsvc-migration", own_server.dsn(), start)
    assert migration.end() == 0, migration.output
    [service] = cluster.start("Deployment", "authsvc", own_server.dsn(), start, **_ANYWHERE)
    _serving(service)
    assert "delivery_disabled" not in service.output
    assert "mail-password" not in service.output
    _stop(service)


def test_base_starts_without_helm(
    cluster: Cluster, own_server: EmbeddedPostgres, start: Callable[..., Process]
) -> None:
    _certificates(cluster, start)
    cluster.run(
        "Without Helm", DATABASE_URL="postgresql://db/authsvc", SMTP_PASSWORD="mail-password"
    )
    _matches_schemas(cluster)
    _, service = cluster.start("Deployment", "authsvc", own_server.dsn(), start, **_ANYWHERE)
    _stop(_serving(service))


def test_laptop_overlay_matches_schemas(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-k", "deploy/kubernetes/laptop")
    _matches_schemas(cluster)
    assert cluster.one("Deployment", "authsvc")["spec"]["replicas"] == 1


def test_changed_settings_replace_the_pods(cluster: Cluster) -> None:
    names = set()
    for comment in ("", "# Changed.\n"):
        config = cluster.folder / "deploy" / "kubernetes" / "base" / "config.toml"
        config.write_text(comment + config.read_text())
        cluster.kubectl("apply", "-k", "deploy/kubernetes/laptop")
    for each in cluster.objects():
        if each["kind"] == "Deployment" and each["metadata"]["name"] == "authsvc":
            [volume] = [
                volume["configMap"]["name"]
                for volume in each["spec"]["template"]["spec"]["volumes"]
                if "configMap" in volume
            ]
            names.add(volume)
    assert len(names) == 2


_OF_HELM = {
    "helm.sh/chart",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "app.kubernetes.io/instance",
}


def _bare(document: Any) -> Any:
    """Return an object without what Helm or Kustomize alone add to it."""
    if isinstance(document, list):
        return [_bare(each) for each in document]
    if not isinstance(document, dict):
        # Kustomize names a ConfigMap after its contents.
        return re.sub(r"^authsvc-[a-z0-9]{10}$", "authsvc", str(document))
    made = {key: _bare(value) for key, value in document.items()}
    if "config.toml" in made:
        made["config.toml"] = tomllib.loads(made["config.toml"])
    if isinstance(made.get("labels"), dict):
        made["labels"] = {k: v for k, v in made["labels"].items() if k not in _OF_HELM}
    made.pop("namespace", None)
    if "checksum/config" in made.get("annotations", {}):
        del made["annotations"]
    return made


def test_base_is_what_the_chart_renders() -> None:
    done = subprocess.run(
        [*KUBECTL.command(), "kustomize", _ROOT / "deploy" / "kubernetes" / "base"],
        check=True,
        capture_output=True,
        text=True,
    )
    base = {
        (each["kind"], each["metadata"]["name"]): each
        for each in _bare(list(yaml.safe_load_all(done.stdout)))
    }
    rendered = render({}, _ROOT / "deploy" / "kubernetes" / "values.yaml")
    chart = {(each["kind"], each["metadata"]["name"]): each for each in _bare(rendered.all)}
    assert base.keys() == chart.keys()
    for name, each in chart.items():
        assert base[name] == each, name
