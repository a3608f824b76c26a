"""The check of objects against schemas: it finds what a cluster would refuse, or drop silently."""

from typing import Any

import pytest

from tests.world.schemas import VERSIONS, SchemaViolation, validate

pytestmark = pytest.mark.world

SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "example"},
    "spec": {"ports": [{"port": 80, "targetPort": "http"}]},
}
CERTIFICATE = {
    "apiVersion": "cert-manager.io/v1",
    "kind": "Certificate",
    "metadata": {"name": "example"},
    "spec": {"secretName": "example", "issuerRef": {"name": "example"}},
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", [SERVICE, CERTIFICATE], ids=lambda each: each["kind"])
def test_valid_object_passes(document: dict[str, Any], version: str) -> None:
    validate(document, version)


@pytest.mark.parametrize("document", [SERVICE, CERTIFICATE], ids=lambda each: each["kind"])
def test_unknown_field_is_found(document: dict[str, Any]) -> None:
    with pytest.raises(SchemaViolation, match="secretNaem"):
        validate(document | {"spec": document["spec"] | {"secretNaem": "example"}})


def test_unknown_nested_field_is_found() -> None:
    spec = CERTIFICATE["spec"] | {"issuerRef": {"name": "example", "knid": "Issuer"}}  # type: ignore[operator]  # a literal of mixed values
    with pytest.raises(SchemaViolation, match=r"Certificate example, \$.spec.issuerRef.*knid"):
        validate(CERTIFICATE | {"spec": spec})


def test_missing_field_is_found() -> None:
    with pytest.raises(SchemaViolation, match="secretName"):
        validate(CERTIFICATE | {"spec": {"issuerRef": {"name": "example"}}})


def test_kind_that_a_version_lacks_is_found() -> None:
    budget = SERVICE | {"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget"}
    with pytest.raises(SchemaViolation, match="no PodDisruptionBudget of policy/v1beta1"):
        validate(budget)


def test_number_or_text_may_be_either() -> None:
    route = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {"name": "example"},
        "spec": {"selector": {}, "endpoints": [{"targetPort": port} for port in (80, "http")]},
    }
    validate(route)
