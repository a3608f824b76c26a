"""The manifests: valid by Kubernetes' schemas, restricted, with settings that the code loads."""

import base64
import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from authsvc.config import load

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
VERSION = "1.33"


def _documents() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{path.name}:{document['kind']}", document)
        for path in sorted(FOLDER.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


DOCUMENTS = _documents()
OBJECTS = [pytest.param(doc, id=name) for name, doc in DOCUMENTS if doc["kind"] != "Kustomization"]
PODS = [
    pytest.param(doc["spec"]["template"]["spec"], id=name)
    for name, doc in DOCUMENTS
    if doc["kind"] in {"Deployment", "Job"}
]


def _one(kind: str) -> dict[str, Any]:
    (found,) = (doc for _, doc in DOCUMENTS if doc["kind"] == kind)
    return found


@pytest.mark.parametrize("document", OBJECTS)
def test_manifest_matches_schema(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


def test_schema_rejects_misspelled_field() -> None:
    broken = _one("Service") | {"speck": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)


def test_kustomization_lists_every_manifest() -> None:
    kustomization = _one("Kustomization")
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files


@pytest.mark.parametrize("pod", PODS)
def test_pod_is_restricted(pod: dict[str, Any]) -> None:
    """The restricted Pod Security Standard, and a read-only root file system."""
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not any(key in pod for key in ("hostNetwork", "hostPID", "hostIPC"))
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "limits" in container["resources"]
    for volume in pod["volumes"]:
        assert "hostPath" not in volume
        assert "emptyDir" not in volume


def test_grace_period_exceeds_drain_time() -> None:
    pod = _one("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pause + 20


def test_probes_need_no_certificate() -> None:
    """The kubelet can present none, and an ordinary certificate is no client's."""
    pod = _one("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    paths = {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    for probe, path in paths.items():
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}


def test_every_pod_has_a_network_policy() -> None:
    policies = [doc for _, doc in DOCUMENTS if doc["kind"] == "NetworkPolicy"]
    selected = [policy["spec"]["podSelector"]["matchLabels"] for policy in policies]
    for kind in ("Deployment", "Job"):
        labels = _one(kind)["spec"]["template"]["metadata"]["labels"]
        assert any(match.items() <= labels.items() for match in selected)


def test_configmap_and_secret_load_as_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(_one("ConfigMap")["data"]["config.toml"])
    key = base64.b64encode(bytes(32)).decode()
    files = {
        "database__url": "postgresql://authsvc@db/authsvc",
        "secrets__keyring": json.dumps([{"id": "2026-11", "key": key}]),
        "secrets__peppers": json.dumps([{"id": "2026-11", "key": key}]),
        "delivery__smtp__password": "mail-password",
    }
    folder = tmp_path / "secrets"
    _mount(folder, files)
    monkeypatch.setenv("AUTHSVC_CONFIG", str(config))
    monkeypatch.setenv("AUTHSVC_SECRETS_DIR", str(folder))

    settings = load()

    assert settings.database.url.get_secret_value() == files["database__url"]
    assert settings.secrets.keyring[0].id == "2026-11"
    assert settings.delivery.smtp is not None
    assert settings.delivery.smtp.password is not None
    assert settings.delivery.smtp.password.get_secret_value() == "mail-password"
    assert [str(caller.identity) for caller in settings.callers] == [
        "spiffe://cluster.local/ns/shop/sa/frontend",
        "spiffe://cluster.local/ns/gateway/sa/envoy",
    ]


def _mount(folder: Path, files: dict[str, str]) -> None:
    """Create files as in a mounted Secret: symlinks into a dated folder, by way of `..data`."""
    dated = folder / "..2026_11_22_00_00_00.1"
    dated.mkdir(parents=True)
    (folder / "..data").symlink_to(dated.name)
    for name, text in files.items():
        (dated / name).write_text(text)
        (folder / name).symlink_to(Path("..data") / name)
