"""The chart, rendered by the real Helm: each switch on and off, for three versions of Kubernetes.

What its schema accepts and refuses is in `tests/deploy/test_chart.py`.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from authsvc.app import application
from authsvc.app.reload import RELOADED
from authsvc.config import durations
from authsvc.config.loading import validate
from authsvc.config.telemetry import OTLP_PORT
from tests.deploy.test_chart import SCHEMA, SETTINGS
from tests.support.documents import REPOSITORY
from tests.world import schemas
from tests.world.helm import (
    CHART,
    NAMESPACE,
    PRODUCTION,
    RELEASE,
    HelmError,
    Object,
    Rendered,
    Values,
    helm,
    render,
)
from tests.world.tools import HELM, HELM_4, Tool

pytestmark = pytest.mark.world

_OBSERVABILITY = REPOSITORY / "deploy" / "observability"
_RULES = sorted((_OBSERVABILITY / "rules").glob("*.yaml"))
_DASHBOARDS = sorted((_OBSERVABILITY / "dashboards").glob("*.json"))
_STORE = {"secretStoreRef": {"name": "vault"}, "dataFrom": [{"extract": {"key": "authsvc"}}]}
_GATEWAY = [{"name": "public", "namespace": "gateways"}]
_BACKEND_TLS = {"caConfigMap": "authsvc-ca"}
_MIGRATION = {("Job", "authsvc-migration"), ("ConfigMap", "authsvc-migration")}
_CERTIFICATE = {("Certificate", "authsvc")}
_OWN_ISSUER = {
    ("Issuer", "authsvc"),
    ("Issuer", "authsvc-self-signed"),
    ("Certificate", "authsvc-ca"),
}
# Each switch: what it takes to turn it from its default, and which objects then come or go.
SWITCHES: Mapping[str, tuple[Values, set[tuple[str, str]]]] = {
    "secrets.externalSecret.enabled": (
        {"secrets": {"externalSecret": {"enabled": True, **_STORE}}},
        {("ExternalSecret", "authsvc"), ("ExternalSecret", "authsvc-migration")},
    ),
    "certManager.enabled": (
        {"certManager": {"enabled": True, "issuerRef": {"name": "internal"}}},
        _CERTIFICATE,
    ),
    "certManager.createIssuer": (
        {
            "certManager": {
                "enabled": True,
                "createIssuer": True,
                "issuerRef": {"name": ""},
                "clients": [
                    {"name": "shop", "identity": "spiffe://cluster.local/ns/shop/sa/frontend"},
                    {"name": "old", "identity": "dns:old.shop.svc", "namespace": "shop"},
                ],
            }
        },
        _CERTIFICATE
        | _OWN_ISSUER
        | {("Certificate", "authsvc-client-shop"), ("Certificate", "authsvc-client-old")},
    ),
    "trustManager.enabled": (
        {
            "trustManager": {
                "enabled": True,
                "sources": [{"useDefaultCAs": True}],
                "namespaceSelector": {"matchLabels": {"team": "shop"}},
            },
            "tls": {"clientCa": {"configMap": "authsvc-ca"}},
        },
        {("Bundle", "authsvc-ca")},
    ),
    "serviceAccount.create": (
        {"serviceAccount": {"create": False, "name": "there-already"}},
        {("ServiceAccount", "authsvc")},
    ),
    "service.publishHttp": ({"service": {"type": "LoadBalancer", "publishHttp": True}}, set()),
    "headlessService.enabled": (
        {"headlessService": {"enabled": False}},
        {("Service", "authsvc-headless")},
    ),
    "gateway.grpcRoute.enabled": (
        {
            "gateway": {
                "grpcRoute": {
                    "enabled": True,
                    "parentRefs": _GATEWAY,
                    "hostnames": ["auth.example.com"],
                    "backendTls": _BACKEND_TLS,
                }
            }
        },
        {("GRPCRoute", "authsvc"), ("BackendTLSPolicy", "authsvc")},
    ),
    "gateway.grpcRoute.backendTls.enabled": (
        {
            "gateway": {
                "grpcRoute": {
                    "enabled": True,
                    "parentRefs": _GATEWAY,
                    "matches": [{"method": {"service": "authsvc.v1.AuthService"}}],
                    "backendTls": {"enabled": False},
                }
            }
        },
        {("GRPCRoute", "authsvc")},
    ),
    "gateway.tlsRoute.enabled": (
        {
            "gateway": {
                "tlsRoute": {
                    "enabled": True,
                    "parentRefs": _GATEWAY,
                    "hostnames": ["auth.example.com"],
                }
            }
        },
        {("TLSRoute", "authsvc")},
    ),
    "autoscaling.enabled": (
        {"autoscaling": {"enabled": True, "hashQueueSeconds": "100m", "callsInFlight": 200}},
        {("HorizontalPodAutoscaler", "authsvc")},
    ),
    "podDisruptionBudget.enabled": (
        {"podDisruptionBudget": {"enabled": False}},
        {("PodDisruptionBudget", "authsvc")},
    ),
    "networkPolicy.enabled": (
        {"networkPolicy": {"enabled": True}},
        {("NetworkPolicy", "authsvc"), ("NetworkPolicy", "authsvc-migration")},
    ),
    "metrics.serviceMonitor.enabled": (
        {"metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}}},
        {("ServiceMonitor", "authsvc")},
    ),
    "metrics.podMonitor.enabled": (
        {
            "metrics": {
                "podMonitor": {
                    "enabled": True,
                    "relabelings": [{"targetLabel": "cluster", "replacement": "eu"}],
                }
            }
        },
        {("PodMonitor", "authsvc")},
    ),
    "metrics.prometheusRule.enabled": (
        {"metrics": {"prometheusRule": {"enabled": True}}},
        {("PrometheusRule", "authsvc") for _ in _RULES[:1]},
    ),
    "metrics.dashboards.enabled": (
        {"metrics": {"dashboards": {"enabled": True, "annotations": {"folder": "Logins"}}}},
        {("ConfigMap", f"authsvc-{path.stem}") for path in _DASHBOARDS},
    ),
    "test.enabled": ({"test": {"enabled": False}}, {("Pod", "authsvc-test")}),
    # Values that are no switch, but change what is there.
    "migration.mode: initContainer": ({"migration": {"mode": "initContainer"}}, _MIGRATION),
    "migration.mode: none": ({"migration": {"mode": "none"}}, _MIGRATION),
    "every text": (
        {
            "image": {
                "registry": "registry.example.com/",
                "digest": f"sha256:{'0' * 64}",
                "pullSecrets": ["registry"],
            },
            "commonLabels": {"team": "login"},
            "podLabels": {"tier": "front"},
            "podAnnotations": {"example.com/note": "a"},
            "deploymentAnnotations": {"example.com/note": "b"},
            "nodeSelector": {"kubernetes.io/arch": "amd64"},
            "tolerations": [{"key": "login", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "login",
            "spread": {"hosts": "off", "zones": "off"},
            "extraEnv": [{"name": "AUTHSVC_LOG__LEVEL", "value": "debug"}],
            "extraVolumes": [{"name": "database-ca", "configMap": {"name": "database-ca"}}],
            "extraVolumeMounts": [{"name": "database-ca", "mountPath": "/etc/database"}],
            "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1"}},
            "migration": {
                "serviceAccountName": "migrator",
                "annotations": {"argocd.argoproj.io/sync-wave": "-1"},
            },
            "service": {
                "annotations": {"example.com/note": "c"},
                "trafficDistribution": "PreferClose",
                "ipFamilyPolicy": "PreferDualStack",
            },
            "headlessService": {"annotations": {"example.com/note": "d"}},
            "podDisruptionBudget": {"minAvailable": "50%"},
            "test": {"clientSecret": "authsvc-client-shop"},
        },
        set(),
    ),
    "extraObjects": (
        {
            "extraObjects": [
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "{{ .Release.Name }}-extra"},
                }
            ]
        },
        {("ConfigMap", "authsvc-extra")},
    ),
}


def _merged(*values: Values) -> dict[str, Any]:
    """Return several values as one, as Helm merges its files."""
    made: dict[str, Any] = {}
    for each in values:
        for name, value in each.items():
            both = isinstance(value, Mapping) and isinstance(made.get(name), Mapping)
            made[name] = _merged(made[name], value) if both else value
    return made


# With these, everything is there that can be at once: the second overrides a few of the first.
EVERYTHING = _merged(
    *(
        values
        for name, (values, _) in SWITCHES.items()
        if name
        not in {
            "serviceAccount.create",
            "headlessService.enabled",
            "gateway.grpcRoute.backendTls.enabled",
            "podDisruptionBudget.enabled",
            "metrics.podMonitor.enabled",
            "test.enabled",
            "certManager.enabled",
            "migration.mode: initContainer",
            "migration.mode: none",
        }
    )
)


@cache
def _defaults(version: str) -> Rendered:
    return render(version=version)


@pytest.fixture(params=[*SWITCHES, "defaults", "production", "everything"])
def rendered(request: pytest.FixtureRequest) -> Rendered:
    """The objects for each switch, for the defaults, for production, and for everything at once."""
    if request.param == "production":
        return render({}, PRODUCTION)
    others = {"defaults": {}, "everything": EVERYTHING}
    return render(others.get(request.param) or SWITCHES.get(request.param, ({}, set()))[0])


def _switches(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, bool):
            yield f"{path}{name}"
        elif isinstance(value, Mapping) and name not in {"config", "securityContext"}:
            yield from _switches(value, f"{path}{name}.")


def test_every_switch_is_tried() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert {name for name in _switches(values) if "SecurityContext" not in name} <= SWITCHES.keys()


@pytest.mark.parametrize("version", schemas.VERSIONS)
@pytest.mark.parametrize("switch", SWITCHES)
def test_switch_adds_or_takes_what_it_should(switch: str, version: str) -> None:
    values, expected = SWITCHES[switch]
    made, before = render(values, version=version), _defaults(version)
    assert made.names() ^ before.names() == expected
    for each in made:
        schemas.validate(each, version)


@pytest.mark.parametrize("version", schemas.VERSIONS)
@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
@pytest.mark.parametrize("files", [(), (PRODUCTION,)], ids=["laptop", "production"])
def test_whole_chart_matches_schemas(files: tuple[Path, ...], values: Values, version: str) -> None:
    made = render(values, *files, version=version)
    assert len(made.names()) == len(made.all)
    for each in made:
        schemas.validate(each, version)


@pytest.mark.parametrize("switch", SWITCHES)
def test_helm_4_renders_what_helm_3_does(switch: str) -> None:
    values, _ = SWITCHES[switch]
    assert render(values, program=HELM_4).all == render(values).all


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_helm_4_renders_production_as_helm_3_does(values: Values) -> None:
    assert render(values, PRODUCTION, program=HELM_4).all == render(values, PRODUCTION).all


@pytest.mark.parametrize("program", [HELM, HELM_4], ids=lambda each: each.name)
def test_lint_finds_nothing(program: Tool) -> None:
    """It fills in NOTES.txt as well."""
    for values in ({}, EVERYTHING):
        text = helm(
            *("lint", "--strict", "--kube-version", "1.37.0", CHART, "--values", "-"),
            stdin=yaml.safe_dump(values),
            program=program,
        )
        assert "[WARNING]" not in text


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"config": {"log": {"lvl": "info"}}}, "at '/config/log'"),
        ({"config": {"tokens": {"issuer": 1}}}, "at '/config/tokens/issuer'"),
        ({"config": {"grpc": {"max_connections": 0}}}, "at '/config/grpc/max_connections'"),
        ({"config": {"grpc": {"drain_timeout": "20"}}}, "at '/config/grpc/drain_timeout'"),
        ({"config": {"callers": [{"identity": "shop"}]}}, "at '/config/callers/0"),
        ({"config": {"database": {"url": "postgresql://db"}}}, "at '/config/database'"),
        ({"config": {"rate_limits": {"policies": {"a b": {}}}}}, "at '/config/rate_limits"),
        ({"config": {"grpc": {"address": "127.0.0.1:8443"}}}, "nobody reaches a pod"),
        ({"config": {"http": {"address": "localhost:8081"}}}, "nobody reaches a pod"),
        ({"config": {"grpc": {"address": "unix:/run/authsvc"}}}, "has to be HOST:PORT"),
        ({"config": {"grpc": {"address": ":0"}}}, "which no Service finds"),
        ({"config": {"grpc": {"address": ":8081"}}}, "have the same port"),
        ({"terminationGracePeriodSeconds": 39}, "39 is too short"),
        ({"podDisruptionBudget": {"minAvailable": 1}}, "no node can be drained"),
        ({"podDisruptionBudget": {"minAvailable": "100%"}}, "no node can be drained"),
        ({"config": {"grpc": {"address": None}}}, "missing property 'address'"),
        ({"config": {"http": None}}, "missing property 'http'"),
        (
            {"replicas": 5, "podDisruptionBudget": {"minAvailable": 2}}
            | {"autoscaling": {"enabled": True}},
            "when there are 2 pods, of which 2 have to stay, no node can be drained",
        ),
        ({"fullnameOverride": "Login"}, "Login can't be the name of a Service"),
        ({"fullnameOverride": "1-login"}, "1-login can't be the name of a Service"),
        ({"nameOverride": "größe"}, "at '/nameOverride'"),
        ({"commonLabels": {"app.kubernetes.io/part-of": "shop"}}, "commonLabels: app.kubernetes"),
        ({"commonLabels": {"helm.sh/chart": "shop"}}, "commonLabels: helm.sh/chart is a label"),
        ({"podLabels": {"app.kubernetes.io/name": "shop"}}, "podLabels: app.kubernetes.io/name"),
        ({"spread": None}, "missing property 'spread'"),
        ({"networkPolicy": {"dns": {"ports": None}}}, "missing property 'ports'"),
        ({"livenessProbe": None}, "missing property 'livenessProbe'"),
        ({"resources": {"limits": {"memory": "479Mi"}}}, "479Mi is too little"),
        (
            {"config": {"passwords": {"hash_memory_mib": 577}}},
            "up to config.passwords.hash_memory_mib (577",
        ),
        ({"autoscaling": {"enabled": True, "minReplicas": 11}}, "above autoscaling.maxReplicas"),
        (
            {"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}}},
            "resources.requests.cpu, which is missing",
        ),
        ({"secrets": {"externalSecret": {"enabled": True}}}, "secretStoreRef.name is missing"),
        (
            {"secrets": {"externalSecret": {"enabled": True, "secretStoreRef": {"name": "a"}}}},
            "neither data nor dataFrom",
        ),
        ({"tls": {"clientCa": {"secret": "a", "configMap": "b"}}}, "a Secret or a ConfigMap"),
        ({"certManager": {"enabled": True}}, "issuerRef.name is missing"),
        (
            {"certManager": {"enabled": True, "createIssuer": True, "issuerRef": {"name": "a"}}},
            "take one",
        ),
        ({"certManager": {"clients": [{"name": "a", "identity": "dns:a"}]}}, "needs certManager"),
        ({"trustManager": {"enabled": True}}, "trustManager.sources is missing"),
        ({"gateway": {"grpcRoute": {"enabled": True}}}, "grpcRoute.parentRefs is missing"),
        (
            {"gateway": {"grpcRoute": {"enabled": True, "parentRefs": _GATEWAY}}},
            "caConfigMap is missing",
        ),
        ({"gateway": {"tlsRoute": {"enabled": True}}}, "tlsRoute.parentRefs is missing"),
        (
            {"gateway": {"tlsRoute": {"enabled": True, "parentRefs": _GATEWAY}}},
            "tlsRoute.hostnames is missing",
        ),
        (
            {"metrics": {name: {"enabled": True} for name in ("serviceMonitor", "podMonitor")}},
            "scrape each pod twice",
        ),
        (
            {"metrics": {"serviceMonitor": {"enabled": True}}}
            | {"headlessService": {"enabled": False}},
            "enable headlessService",
        ),
        (
            {"metrics": {"podMonitor": {"enabled": True}}}
            | {"config": {"http": {"tls": SETTINGS["http"]["tls"]}}},
            "podMonitor.tlsConfig is missing",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_wrong_values_are_refused(values: Values, problem: str) -> None:
    for program in (HELM, HELM_4):
        with pytest.raises(HelmError) as caught:
            render(values, program=program)
        assert problem in str(caught.value)


def test_name_stays_a_text_whatever_yaml_takes_it_for() -> None:
    names = {
        "fullnameOverride": "on",
        "nameOverride": "1",
        "image": {"pullSecrets": ["2"]},
        "priorityClassName": "3",
        "secrets": {"existingSecret": "4"},
        "tls": {"existingSecret": "0x5"},
        "serviceAccount": {"name": "6"},
        "migration": {"serviceAccountName": "7"},
        "test": {"clientSecret": "8"},
    }
    for each in render(_merged(EVERYTHING, names), release="true", namespace="123"):
        schemas.validate(each)
        assert each["metadata"].get("namespace", "123") in {"123", "shop", "grafana"}


def test_label_of_pods_goes_before_that_of_all_objects() -> None:
    made = render({"commonLabels": {"team": "a", "tier": "1"}, "podLabels": {"team": "b"}})
    assert made.one("Service")["metadata"]["labels"].items() >= {"team": "a", "tier": "1"}.items()
    pod = made.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert pod.items() >= {"team": "b", "tier": "1"}.items()
    # A key that is there twice is an error to some that read YAML.
    values = ("--set", "commonLabels.team=a", "--set", "podLabels.team=b")
    only = ("--show-only", "templates/deployment.yaml", "--kube-version", "1.33.0")
    assert helm("template", RELEASE, CHART, *only, *values).count("team:") == 2


def _own_keys(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield the keys of the chart's own values that may be missing."""
    for name, inner in schema["properties"].items():
        if name not in schema["required"]:
            yield f"{path}{name}"
        elif "properties" in inner and name != "config":
            yield from _own_keys(inner, f"{path}{name}.")


# What a switch of EVERYTHING needs is refused by name: see `test_wrong_values_are_refused`.
_NEEDED = {"name", "dataFrom", "parentRefs", "hostnames", "caConfigMap", "resources"}


def test_value_that_null_removes_is_not_needed() -> None:
    """Helm removes such a key, whatever its default is; the schema refuses that for the others."""
    for key in _own_keys(SCHEMA):
        if key.rpartition(".")[2] not in _NEEDED | {"global", "enabled"}:
            for each in render(_merged(EVERYTHING, _nested(key, None))):
                schemas.validate(each)


@pytest.mark.parametrize("limit", ["480Mi", "0.5Gi", "1Gi", "1000000000", None])
def test_enough_memory_is_accepted(limit: str | None) -> None:
    render({"resources": {"limits": {"memory": limit}}})


def test_kubernetes_that_is_too_old_is_refused() -> None:
    with pytest.raises(HelmError, match=r"incompatible with Kubernetes v1\.30\.0"):
        render(version="1.30")


def _config(made: Rendered, name: str = RELEASE) -> dict[str, Any]:
    return tomllib.loads(made.one("ConfigMap", name)["data"]["config.toml"])


def test_every_setting_can_be_a_value() -> None:
    """The service reads from the ConfigMap exactly what the values say."""
    config = json.loads(json.dumps(SETTINGS))
    config["grpc"]["address"], config["http"]["address"] = "0.0.0.0:8443", "[::]:8081"
    config["turn"]["uris"] = ["turn:turn.example.com"]
    made = render({"config": config})
    key = {"id": "1", "key": "A" * 43 + "="}
    secrets = {
        "database": {"url": "postgresql://db/authsvc"},
        "secrets": {"keyring": [key], "peppers": [key]},
        "tokens": {"pkcs11": {"pin": "1234"}},
        "oauth": {"providers": {"example": {"client_secret": "secret"}}},
        "audit": {"forward": {"webhook": {"secrets": ["whsec_" + "A" * 32]}}},
        "delivery": {"webhook": {"secrets": ["whsec_" + "A" * 32]}},
        "turn": {"secrets": ["0123456789abcdef"]},
    }
    for name in (RELEASE, f"{RELEASE}-migration"):
        assert validate(_merged(_config(made, name), secrets)) == validate(_merged(config, secrets))


def test_text_cannot_leave_its_setting() -> None:
    product = 'A "quoted" \\ name {{ .Release.Name }} #'
    assert _config(render({"config": {"delivery": {"product": product}}}))["delivery"] == {
        "channel": "none",
        "product": product,
    }


def _checksum(config: Values) -> str:
    template = render({"config": config}).one("Deployment")["spec"]["template"]
    found: str = template["metadata"]["annotations"]["checksum/config"]
    return found


def _nested(key: str, value: object) -> Values:
    for name in reversed(key.split(".")):
        value = {name: value}
    assert isinstance(value, dict)
    return value


_POLICY = {"requests": 7, "window": "1h"}
# Each, with a value that is not its default.
_CHANGES: Mapping[str, object] = {
    "callers": [{"identity": "dns:other", "roles": ["edge"]}],
    "rate_limits.policies": {"uploads": _POLICY},
    "brute_force": {"per_ip": _POLICY},
    "blocks": {"duration": "2h"},
    "codes.requests_per_address": _POLICY,
    "codes.requests_per_ip": _POLICY,
    "codes.resend_interval": "2m",
}


def test_only_what_is_not_reloaded_replaces_the_pods() -> None:
    assert _CHANGES.keys() == set(RELOADED)
    before = _checksum({})
    for key, value in _CHANGES.items():
        assert _checksum(_nested(key, value)) == before, key
    for key, value in {
        "tokens.issuer": "https://other.example.com",
        "codes.lifetime": "5m",
        "rate_limits.rejected_cache_size": 7,
        "passwords.hash_workers": 2,
    }.items():
        assert _checksum(_nested(key, value)) != before, key


def test_hooks_need_nothing_that_comes_later(rendered: Rendered) -> None:
    """What a Job before everything else waits for must not be what comes after it."""
    weights = {
        (each["kind"], each["metadata"]["name"]): int(
            each["metadata"]["annotations"].get("helm.sh/hook-weight", "0")
        )
        for each in rendered
        if "pre-install" in each["metadata"].get("annotations", {}).get("helm.sh/hook", "")
    }
    own = {
        (each["spec"]["target"]["name"], each["metadata"]["name"])
        for each in rendered
        if each["kind"] == "ExternalSecret"
    } | {
        (each["spec"]["secretName"], each["metadata"]["name"])
        for each in rendered
        if each["kind"] == "Certificate"
    }
    for job in (each for each in rendered if each["kind"] == "Job"):
        for kind, name in _needed(job["spec"]["template"]["spec"]):
            # A Secret is there if the object that makes it is.
            makers = (
                {maker for secret, maker in own if secret == name} if kind == "Secret" else {name}
            )
            for each in {(kind, name)} | {("ExternalSecret", maker) for maker in makers}:
                if each in rendered.names():
                    assert weights[each] < weights["Job", job["metadata"]["name"]], each
        assert (
            not {
                ("Certificate", maker)
                for kind, name in _needed(job["spec"]["template"]["spec"])
                for secret, maker in own
                if kind == "Secret" and secret == name
            }
            & rendered.names()
        )


def _needed(pod: Object) -> Iterator[tuple[str, str]]:
    """Yield the kind and the name of each object without which a pod doesn't start."""
    if "serviceAccountName" in pod:
        yield "ServiceAccount", pod["serviceAccountName"]
    for volume in pod["volumes"]:
        for source in volume.get("projected", {}).get("sources", [volume]):
            if "configMap" in source:
                yield "ConfigMap", source["configMap"]["name"]
            if "secret" in source:
                yield "Secret", source["secret"].get("secretName") or source["secret"]["name"]


def _selects(labels: Mapping[str, str], pod: Object) -> bool:
    return set(labels.items()) <= set(pod["metadata"]["labels"].items())


def test_selectors_take_the_service_and_no_hook(rendered: Rendered) -> None:
    server = rendered.one("Deployment")["spec"]["template"]
    hooks = [each for each in rendered.pods() if each is not server]
    found = []
    for each in rendered:
        spec = each.get("spec", {})
        match each["kind"]:
            case "Service":
                found.append(spec["selector"])
            case "Deployment" | "PodDisruptionBudget" | "PodMonitor":
                found.append(spec["selector"]["matchLabels"])
            case "NetworkPolicy" if each["metadata"]["name"] == RELEASE:
                found.append(spec["podSelector"]["matchLabels"])
    assert found
    for labels in found:
        # A selector can't be changed later, so it has nothing that may change.
        assert labels == {
            "app.kubernetes.io/name": "authsvc",
            "app.kubernetes.io/instance": RELEASE,
        }
        assert _selects(labels, server)
        assert not any(_selects(labels, hook) for hook in hooks)


def test_policies_let_the_hooks_out_and_the_test_in() -> None:
    made = render(SWITCHES["networkPolicy.enabled"][0])
    policy, job = (made.one(kind, "authsvc-migration") for kind in ("NetworkPolicy", "Job"))
    assert _selects(policy["spec"]["podSelector"]["matchLabels"], job["spec"]["template"])
    out = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert out == {53, 5432, 6432}
    for rule in made.one("NetworkPolicy")["spec"]["ingress"][:2]:
        labels = rule["from"][0]["podSelector"]["matchLabels"]
        assert _selects(labels, made.one("Pod", "authsvc-test"))


def test_policy_gives_each_only_its_port() -> None:
    """A caller of the gRPC port is not one who may read /metrics."""
    made = render(SWITCHES["networkPolicy.enabled"][0])
    ways = {
        next(iter(peer["podSelector"]["matchLabels"])): [port["port"] for port in rule["ports"]]
        for rule in made.one("NetworkPolicy")["spec"]["ingress"][:2]
        for peer in rule["from"]
    }
    assert ways == {
        "authsvc-client": [8443],
        "authsvc-verifier": [8081],
        "app.kubernetes.io/name": [8081],
    }


_MAIL = {"host": "a", "sender": "a@b.test"}


@pytest.mark.parametrize(
    ("config", "port"),
    [
        ({"delivery": {"channel": "smtp", "smtp": _MAIL}}, 587),
        ({"delivery": {"channel": "smtp", "smtp": {**_MAIL, "port": 465}}}, 465),
        ({"delivery": {"channel": "webhook", "webhook": {"url": "https://a.test"}}}, 443),
        ({"oauth": {"providers": {"github": {"kind": "github", "client_id": "a"}}}}, 443),
        ({"passwords": {"breached": {"address": "https://a.test"}}}, 443),
        ({"audit": {"forward": {"target": "webhook", "webhook": {"url": "https://a.test"}}}}, 443),
        ({"audit": {"forward": {"target": "syslog", "syslog": {"host": "a"}}}}, 6514),
        ({"telemetry": {"otlp_endpoint": "https://collector:4318/"}}, 4318),
        ({"telemetry": {"otlp_endpoint": "https://collector"}}, OTLP_PORT),
        ({"telemetry": {"otlp_endpoint": "http://collector", "plaintext": True}}, OTLP_PORT),
        ({"telemetry": {"otlp_endpoint": "https://[fd00:1::5]:4318"}}, 4318),
        ({"telemetry": {"otlp_endpoint": "https://[fd00:1::5]"}}, OTLP_PORT),
    ],
)
def test_settings_open_the_ports_that_they_need(config: Values, port: int) -> None:
    policy = SWITCHES["networkPolicy.enabled"][0]
    without, made = (render(_merged(policy, {"config": each})) for each in ({}, config))
    assert _egress(made) - _egress(without) == {port}


def _egress(made: Rendered) -> set[int]:
    rules = made.one("NetworkPolicy")["spec"]["egress"]
    return {port["port"] for rule in rules for port in rule["ports"]}


def test_https_can_be_shut_whatever_the_settings_say() -> None:
    config = {"oauth": {"providers": {"github": {"kind": "github", "client_id": "a"}}}}
    for wanted in (True, False):
        made = render({"networkPolicy": {"enabled": True, "https": wanted}, "config": config})
        assert (443 in _egress(made)) is wanted


def test_monitor_scrapes_each_pod_once() -> None:
    made = render(SWITCHES["metrics.serviceMonitor.enabled"][0])
    labels = made.one("ServiceMonitor")["spec"]["selector"]["matchLabels"]
    services = [each for each in made if each["kind"] == "Service"]
    assert [_selects(labels, each) for each in services] == [True, False]
    assert services[0]["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize("monitor", ["serviceMonitor", "podMonitor"])
def test_job_is_what_rules_and_dashboards_go_by(monitor: str) -> None:
    values = {"metrics": {monitor: {"enabled": True}}, "nameOverride": "logins"}
    made = render(values, release="eu")
    spec = made.one(monitor[0].upper() + monitor[1:], "eu-logins")["spec"]
    for labelled in (
        made.one("Service", "eu-logins-headless"),
        made.one("Deployment", "eu-logins")["spec"]["template"],
    ):
        assert labelled["metadata"]["labels"][spec["jobLabel"]] == "authsvc"


@pytest.mark.parametrize("drain", ["0s", "250ms", "20s", "1m30s", "1h", "90m"])
def test_grace_period_fits_the_drain(drain: str) -> None:
    """The pause, the drain, and what the service waits for after it."""
    pod = render({"config": {"grpc": {"drain_timeout": drain}}}).one("Deployment")
    pod = pod["spec"]["template"]["spec"]
    [container] = pod["containers"]
    pause = timedelta(seconds=container["lifecycle"]["preStop"]["sleep"]["seconds"])
    grace = timedelta(seconds=pod["terminationGracePeriodSeconds"])
    least = pause + durations.parse(drain) + application._DELIVERY_PATIENCE
    assert timedelta(seconds=5) <= grace - least <= timedelta(seconds=11)


def test_autoscaler_has_the_number_of_pods_to_itself() -> None:
    made = render(SWITCHES["autoscaling.enabled"][0])
    assert "replicas" not in made.one("Deployment")["spec"]
    metrics = made.one("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert [each["type"] for each in metrics] == ["ContainerResource", "Pods", "Pods"]
    names = {each["pods"]["metric"]["name"]: each["pods"]["target"] for each in metrics[1:]}
    assert {name: target["averageValue"] for name, target in names.items()} == {
        "authsvc_hash_queue_seconds": "100m",
        "authsvc_rpc_in_flight": "200",
    }
    plain = render({"autoscaling": {"enabled": True}})
    assert len(plain.one("HorizontalPodAutoscaler")["spec"]["metrics"]) == 1


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ({}, "authsvc:0.1.0"),
        ({"tag": "1.2.3"}, "authsvc:1.2.3"),
        (
            {"registry": "registry.example.com:5000/", "repository": "login/authsvc"},
            "registry.example.com:5000/login/authsvc:0.1.0",
        ),
        ({"tag": "1.2.3", "digest": "sha256:" + "0" * 64}, "authsvc@sha256:" + "0" * 64),
    ],
)
def test_every_pod_has_the_same_image(image: Values, name: str) -> None:
    made = render({"image": image, "migration": {"mode": "initContainer"}})
    for pod in [*made.pods(), *render({"image": image}).pods()]:
        spec = pod["spec"]
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["image"] == name


def test_every_pod_is_restricted(rendered: Rendered) -> None:
    """The restricted Pod Security Standard, and a read-only root file system."""
    for pod in rendered.pods():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any(key in spec for key in ("hostNetwork", "hostPID", "hostIPC"))
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "limits" in container["resources"]


def test_probes_speak_tls_if_the_port_does() -> None:
    tls = {"config": {"http": {"tls": SETTINGS["http"]["tls"]}}}
    for values, scheme in (({}, None), (tls, "HTTPS")):
        [container] = render(values).one("Deployment")["spec"]["template"]["spec"]["containers"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"].get("scheme") == scheme


def test_ports_follow_the_settings() -> None:
    made = render({"config": {"grpc": {"address": "[::]:9443"}, "http": {"address": ":9081"}}})
    [container] = made.one("Deployment")["spec"]["template"]["spec"]["containers"]
    assert [each["containerPort"] for each in container["ports"]] == [9443, 9081]
    for name in ("authsvc", "authsvc-headless"):
        assert [each["port"] for each in made.one("Service", name)["spec"]["ports"]] == [9443, 9081]


def test_balancer_from_outside_has_no_metrics() -> None:
    ports = render({"service": {"type": "LoadBalancer"}}).one("Service")["spec"]["ports"]
    assert [each["name"] for each in ports] == ["grpc"]


def test_names_fit_whatever_the_release_is_called() -> None:
    made = render(EVERYTHING, release="r" * 53)
    for kind, name in made.names():
        # Of the others, names are no names of hosts and no values of labels.
        if kind in {"Service", "Deployment", "Job", "Pod"}:
            assert len(name) <= 63, name


def test_certificate_has_the_names_by_which_callers_know_it() -> None:
    values = {"certManager": {"enabled": True, "issuerRef": {"name": "a"}}}
    values["certManager"]["dnsNames"] = ["auth.example.com"]
    names = render(values).one("Certificate")["spec"]["dnsNames"]
    for service in ("authsvc", "authsvc-headless"):
        host = f"{service}.{NAMESPACE}.svc.cluster.local"
        for length in (1, 2, 3, 5):
            assert ".".join(host.split(".")[:length]) in names
    assert names[-1] == "auth.example.com"


def test_certificates_of_callers_have_one_identity() -> None:
    made = render(SWITCHES["certManager.createIssuer"][0])
    shop, old = (made.one("Certificate", f"authsvc-client-{name}") for name in ("shop", "old"))
    assert shop["spec"]["uris"] == ["spiffe://cluster.local/ns/shop/sa/frontend"]
    assert old["spec"]["dnsNames"] == ["old.shop.svc"]
    assert old["metadata"]["namespace"] == "shop"
    for each in (shop, old):
        assert each["spec"]["usages"] == ["digital signature", "client auth"]
        assert len({"uris", "dnsNames", "commonName"} & each["spec"].keys()) == 1


def test_rules_and_dashboards_are_those_of_the_files() -> None:
    base = "https://git.example.com/runbooks"
    rule = {"enabled": True, "runbookBaseUrl": base}
    made = render({"metrics": {"prometheusRule": rule, "dashboards": {"enabled": True}}})
    groups = [
        group
        for path in _RULES
        for group in yaml.safe_load(path.read_text().replace("docs/runbooks/", f"{base}/"))[
            "groups"
        ]
    ]
    assert [
        group
        for each in made
        if each["kind"] == "PrometheusRule"
        for group in each["spec"]["groups"]
    ] == groups
    for path in _DASHBOARDS:
        data = made.one("ConfigMap", f"authsvc-{path.stem}")["data"]
        assert data == {f"authsvc-{path.name}": path.read_text()}


def test_chart_is_part_of_another(tmp_path: Path) -> None:
    parent = tmp_path / "platform"
    (parent / "charts").mkdir(parents=True)
    (parent / "charts" / "authsvc").symlink_to(CHART)
    (parent / "Chart.yaml").write_text("apiVersion: v2\nname: platform\nversion: 1.0.0\n")
    values = {"global": {"region": "eu"}, "authsvc": {"replicas": 2}}
    made = render(values, chart=parent, release="eu")
    assert made.one("Deployment", "eu-authsvc")["spec"]["replicas"] == 2
