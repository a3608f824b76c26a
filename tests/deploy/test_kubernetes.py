"""The manifests: valid by Kubernetes' schemas, restricted, with settings that the code loads.

What the documented commands make of them is tried in `tests/world`, where the base is held to the
chart, too.
"""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from authsvc.config import Settings

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
VERSION = "1.33"


def _documents() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{path.parent.name}/{path.name}:{document['kind']}", document)
        for path in sorted(FOLDER.glob("*/*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


DOCUMENTS = _documents()
OBJECTS = [pytest.param(doc, id=name) for name, doc in DOCUMENTS if doc["kind"] != "Kustomization"]


def _one(kind: str, name: str = "authsvc") -> dict[str, Any]:
    (found,) = (
        doc for _, doc in DOCUMENTS if doc["kind"] == kind and doc["metadata"]["name"] == name
    )
    return found


POD: dict[str, Any] = _one("Deployment")["spec"]["template"]["spec"]
CONTAINERS = [*POD["initContainers"], *POD["containers"]]


@pytest.mark.parametrize("document", OBJECTS)
def test_manifest_matches_schema(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


def test_schema_rejects_misspelled_field() -> None:
    broken = _one("Service") | {"speck": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)


@pytest.mark.parametrize("folder", ["base", "laptop", "production"])
def test_kustomization_lists_every_manifest(folder: str) -> None:
    kustomization = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text())
    files = {path.name for path in (FOLDER / folder).glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) - {"../base"} == files


def test_pod_is_restricted() -> None:
    """The restricted Pod Security Standard, and a read-only root file system."""
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert POD["automountServiceAccountToken"] is False
    assert not any(key in POD for key in ("hostNetwork", "hostPID", "hostIPC"))
    for container in CONTAINERS:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "limits" in container["resources"]
    for volume in POD["volumes"]:
        assert "hostPath" not in volume
        assert "emptyDir" not in volume


def test_database_is_migrated_before_a_pod_serves() -> None:
    (migration,), (service,) = POD["initContainers"], POD["containers"]
    assert (migration["args"][0], service["args"]) == ("migrate", ["serve"])
    assert migration["image"] == service["image"]
    assert migration["env"] == service["env"]


def test_one_service_is_headless_and_one_is_not() -> None:
    specs = [_one("Service", name)["spec"] for name in ("authsvc-headless", "authsvc")]
    assert [spec.get("clusterIP") for spec in specs] == ["None", None]
    assert specs[0]["ports"] == specs[1]["ports"]
    assert specs[0]["selector"] == specs[1]["selector"]


def test_network_policy_lets_out_to_database_and_pooler() -> None:
    egress = _one("NetworkPolicy")["spec"]["egress"]
    assert {5432, 6432} <= {port["port"] for rule in egress for port in rule["ports"]}


def test_network_policy_lets_clients_call_and_not_read_metrics() -> None:
    [ports] = [
        [port["port"] for port in rule["ports"]]
        for rule in _one("NetworkPolicy")["spec"]["ingress"]
        for peer in rule["from"]
        if "authsvc-client" in peer["podSelector"]["matchLabels"]
    ]
    assert ports == [8443]


def test_network_policy_lets_replicas_ask_one_another() -> None:
    """As `authsvc doctor` and `authsvc top` do inside of one, by both ports."""
    policy = _one("NetworkPolicy")["spec"]
    replicas = [{"podSelector": policy["podSelector"]}]
    for rules, peers in ((policy["ingress"], "from"), (policy["egress"], "to")):
        [rule] = [rule for rule in rules if rule.get(peers) == replicas]
        assert [port["port"] for port in rule["ports"]] == [8443, 8081]


def test_grace_period_exceeds_drain_time() -> None:
    (container,) = POD["containers"]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = Settings.model_fields["grpc"].get_default(call_default_factory=True).drain_timeout
    assert POD["terminationGracePeriodSeconds"] > pause + drain.total_seconds()


def test_probes_need_no_certificate() -> None:
    """The kubelet can present none, and an ordinary certificate is no client's."""
    (container,) = POD["containers"]
    paths = {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    for probe, path in paths.items():
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}
