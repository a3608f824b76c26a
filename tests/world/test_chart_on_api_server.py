"""The chart on a real API server: installed, upgraded, rolled back, and taken over."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.documents import REPOSITORY
from tests.world.api_server import ApiServer
from tests.world.crds import CRDS
from tests.world.helm import CHART, HelmError, Values
from tests.world.test_chart import EVERYTHING
from tests.world.tools import HELM, HELM_4

# The server starts in half a minute, and is shared.
pytestmark = [pytest.mark.world, pytest.mark.alone, pytest.mark.timeout(600)]

_JOB = "authsvc-migration"


@pytest.fixture(scope="module", params=[HELM, HELM_4], ids=lambda program: program.name)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiServer]:
    with ApiServer(tmp_path_factory.mktemp("api-server"), request.param) as server:
        yield server


@pytest.fixture
def namespace(server: ApiServer, request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own, which admits restricted pods only."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_"))[:63].strip("-")
    server.kubectl("create", "namespace", name)
    server.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    return name


def _upgrade(server: ApiServer, namespace: str, values: Values, *more: str | Path) -> None:
    """Install or upgrade the release, with a Job that succeeds."""
    with server.end_job(_JOB, namespace, "Complete"):
        _helm(server, namespace, values, *more)


def _helm(server: ApiServer, namespace: str, values: Values, *more: str | Path) -> None:
    server.helm(
        *("upgrade", "--install", "authsvc", CHART, "--namespace", namespace),
        *("--timeout", "3m", "--values", "-", *more),
        stdin=yaml.safe_dump(dict(values)),
    )


def test_migration_comes_before_everything_else(server: ApiServer, namespace: str) -> None:
    """At the first install nothing else is there yet, and what only the Job needs goes with it."""
    with server.end_job(_JOB, namespace, "Complete") as end:
        _helm(server, namespace, {"networkPolicy": {"enabled": True}})
    assert end.seen - {"configmap/kube-root-ca.crt"} == {
        f"configmap/{_JOB}",
        f"networkpolicy.networking.k8s.io/{_JOB}",
    }
    left = server.names(namespace, "configmap", "networkpolicy", "job", "deployment")
    assert left - {"configmap/kube-root-ca.crt"} == {
        "configmap/authsvc",
        "networkpolicy.networking.k8s.io/authsvc",
        f"job.batch/{_JOB}",
        "deployment.apps/authsvc",
    }


def test_failed_migration_leaves_the_pods_as_they_are(server: ApiServer, namespace: str) -> None:
    _upgrade(server, namespace, {})
    before = server.get("deployment", "authsvc", namespace)
    with (
        server.end_job(_JOB, namespace, "Failed"),
        pytest.raises(HelmError, match="pre-upgrade hooks failed"),
    ):
        _helm(server, namespace, {"image": {"tag": "2.0.0"}})
    assert server.get("deployment", "authsvc", namespace) == before
    assert f"job.batch/{_JOB}" in server.names(namespace, "job")
    # The next one is not kept by what the failed one left.
    _upgrade(server, namespace, {"image": {"tag": "2.0.1"}})


def test_number_of_pods_stays_when_the_autoscaler_takes_over(
    server: ApiServer, namespace: str
) -> None:
    _upgrade(server, namespace, {"replicas": 3})
    server.kubectl("scale", "deployment/authsvc", "--replicas=5", "--namespace", namespace)
    for tag in ("2.0.0", "2.0.1"):
        _upgrade(server, namespace, {"autoscaling": {"enabled": True}, "image": {"tag": tag}})
        found = server.get("deployment", "authsvc", namespace)
        assert found is not None
        assert found["spec"]["replicas"] == 5


def test_pods_are_admitted_as_restricted(server: ApiServer, namespace: str) -> None:
    _upgrade(server, namespace, {})
    deployment = server.get("deployment", "authsvc", namespace)
    assert deployment is not None
    pod = deployment["spec"]["template"] | {"apiVersion": "v1", "kind": "Pod"}
    pod["metadata"]["name"] = "authsvc"
    apply = ("apply", "--dry-run=server", "--namespace", namespace, "--filename=-")
    server.kubectl(*apply, stdin=yaml.safe_dump(pod))
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    assert "violates PodSecurity" in server.refusal(*apply, stdin=yaml.safe_dump(pod))


def test_every_object_is_accepted(server: ApiServer, namespace: str) -> None:
    """By the server's own checks, which go beyond schemas, and with the definitions of others."""
    for crds in CRDS:
        for path in crds.definitions():
            server.kubectl("apply", "--server-side", "--filename", path)
    server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    server.kubectl("create", "namespace", "shop")
    _upgrade(server, namespace, EVERYTHING)
    _upgrade(server, namespace, EVERYTHING | {"replicas": 3})
    server.helm("rollback", "authsvc", "1", "--namespace", namespace)
    server.helm("uninstall", "authsvc", "--namespace", namespace)
    left = server.names(namespace, "deployment", "service", "certificate", "externalsecret")
    assert left == {"certificate.cert-manager.io/authsvc-ca"}


def test_release_takes_over_what_kustomize_has_made(server: ApiServer, namespace: str) -> None:
    """With the values of deploy/kubernetes, by which the selector stays as it is."""
    folder = REPOSITORY / "deploy" / "kubernetes"
    server.kubectl("apply", "-k", folder / "base", "--namespace", namespace)
    kinds = "deployment,service,serviceaccount,networkpolicy,poddisruptionbudget"
    where = ("--namespace", namespace, "--selector=app.kubernetes.io/part-of=authsvc")
    server.kubectl("label", kinds, "app.kubernetes.io/managed-by=Helm", *where)
    server.kubectl(
        *("annotate", kinds, "meta.helm.sh/release-name=authsvc"),
        *(f"meta.helm.sh/release-namespace={namespace}", *where),
    )
    values = ("--values", folder / "values.yaml")
    # Helm 4 would apply on the server, where the fields belong to kubectl.
    how = () if server.program is HELM else ("--server-side=false",)
    _helm(server, namespace, {}, *values, *how)
    found = server.get("deployment", "authsvc", namespace)
    assert found is not None
    assert found["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/name": "authsvc"}
    # And goes on with it, also in what kubectl has applied before.
    _upgrade(server, namespace, {}, *values, "--set", "resources.requests.cpu=300m")
    found = server.get("deployment", "authsvc", namespace)
    assert found is not None
    [container] = found["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["requests"]["cpu"] == "300m"
    # With values of any other kind: without any, Helm takes those from before.
    with pytest.raises(HelmError, match="field is immutable"):
        _upgrade(server, namespace, {"replicas": 3})


def _debugging(path: str, namespace: str, pod: str) -> list[str]:
    """Return the arguments of the one `kubectl debug` of a page, for this namespace and pod.

    As no kubelet starts the container, nobody can attach to it.
    """
    text = (REPOSITORY / path).read_text().replace("\\\n", " ")
    [line] = re.findall(r"^ *kubectl -n \S+ debug .*$", text, re.MULTILINE)
    words = shlex.split(line.replace("…", "0" * 64))
    assert words[:2] == ["kubectl", "-n"]
    given = {words[2]: namespace, "$pod": pod}
    return [
        given.get(word, word) for word in words[1:] if word not in {"--attach", "--stdin", "--tty"}
    ]


def _running(server: ApiServer, namespace: str) -> str:
    """Make a pod as the Deployment's controller would; return it as kubectl names it."""
    _upgrade(server, namespace, {})
    deployment = server.get("deployment", "authsvc", namespace)
    assert deployment is not None
    pod = deployment["spec"]["template"] | {"apiVersion": "v1", "kind": "Pod"}
    pod["metadata"]["name"] = "authsvc-1"
    where = ("--namespace", namespace)
    server.kubectl("apply", *where, "--filename=-", stdin=yaml.safe_dump(pod))
    labels = "--selector=app.kubernetes.io/name=authsvc"
    return server.kubectl("get", "pod", *where, labels, "--output=name").strip()


def test_shell_beside_the_service_is_admitted(server: ApiServer, namespace: str) -> None:
    """As it is written in the page, and not without its profile."""
    pod = _running(server, namespace)
    arguments = _debugging("deploy/image/README.md", namespace, pod)
    server.kubectl(*arguments)
    found = server.get("pod", "authsvc-1", namespace)
    assert found is not None
    [container] = found["spec"]["ephemeralContainers"]
    assert container["targetContainerName"] == "authsvc"
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    arguments = [word for word in arguments if not word.startswith("--profile")]
    assert "violates PodSecurity" in server.refusal(*arguments)


def test_upgrade_is_checked_by_a_copy_that_gets_no_calls(server: ApiServer, namespace: str) -> None:
    pod = _running(server, namespace)
    server.kubectl(*_debugging("docs/operations.md", namespace, pod))
    found = server.get("pod", "upgrade-check", namespace)
    assert found is not None
    assert "labels" not in found["metadata"]
    [container] = found["spec"]["containers"]
    assert container["image"] == f"registry.example.com/authsvc@sha256:{'0' * 64}"
    assert [*container.get("command", []), *container.get("args", [])] == [
        "authsvc",
        "upgrade",
        "check",
    ]
    # It does not wait until it is ready, and has the settings of the pod.
    assert "readinessProbe" not in container
    original = server.get("pod", "authsvc-1", namespace)
    assert original is not None
    [serving] = original["spec"]["containers"]
    assert container["env"] == serving["env"]
    assert container["volumeMounts"] == serving["volumeMounts"]


def test_notes_say_what_is_left_to_do(server: ApiServer, namespace: str) -> None:
    def notes() -> str:
        return server.helm("get", "notes", "authsvc", "--namespace", namespace)

    def warnings() -> list[str]:
        return re.findall(r"^WARNING: (.*?)[,:.]", notes(), re.MULTILINE)

    _upgrade(server, namespace, {})
    text = notes()
    assert f"kubectl -n {namespace} exec deployment/authsvc -- authsvc doctor" in text
    assert f"dns:///authsvc-headless.{namespace}.svc.cluster.local:8443" in text
    for secret in ("authsvc (database__url", "authsvc-tls (tls.crt"):
        assert secret in text
    assert warnings() == ["config", "there is one replica"]
    assert "\n\n\n" not in text
    smtp = {"host": "mail.example.com", "sender": "auth@example.com"}
    safe = {"replicas": 2, "config": {"delivery": {"channel": "smtp", "smtp": smtp}}}
    _upgrade(server, namespace, safe)
    assert warnings() == []
    _helm(server, namespace, safe | {"migration": {"mode": "none"}})
    assert warnings() == ["migration"]
