"""Owns the checks of deploy/examples: that the parts of each fit one another and the service.

Each takes the folder of all examples, so that tests can break a copy; raises AssertionError.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from authsvc import __version__
from authsvc.config import durations
from authsvc.config.server import GrpcSettings
from authsvc.config.tokens import TokenSettings
from deploy.image import recipe
from tests.world.containers import MOUNTS
from tests.world.install import KUBECTL
from tests.world.schemas import validate

# Their definitions are in no registry that the tests reach.
_UNPUBLISHED = ("postgresql.cnpg.io/", "spire.spiffe.io/")
_FILES = {"tls.crt", "tls.key", "ca.crt"}
_DRAIN = GrpcSettings().drain_timeout

Object = dict[str, Any]


class Overlay:
    """The objects that an overlay makes of the base."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        done = subprocess.run(
            [*KUBECTL.command(), "kustomize", str(folder / name)],
            check=True,
            capture_output=True,
            text=True,
        )
        self.objects: list[Object] = [each for each in yaml.safe_load_all(done.stdout) if each]
        about = (folder / name / "kustomization.yaml").read_text().partition("apiVersion")[0]
        # "Needs the Secrets authsvc (…), authsvc-tls and shop-tls": what somebody makes beforehand.
        needs = re.sub(r"\([^)]*\)", "", about.partition("Needs the Secret")[2].replace("\n#", ""))
        self.needed = set(re.findall(r"[a-z][a-z-]+", needs.partition(".")[0]))

    def of(self, kind: str) -> dict[str, Object]:
        """Return the objects of a kind, by name."""
        return {each["metadata"]["name"]: each for each in self.objects if each["kind"] == kind}

    @property
    def pod(self) -> Object:
        """The template of the service's pods."""
        pod: Object = self.of("Deployment")["authsvc"]["spec"]["template"]
        return pod

    def secrets(self) -> set[str]:
        """Return the Secrets that are there: made beforehand, or by an operator."""
        made = {each["spec"]["secretName"] for each in self.of("Certificate").values()}
        made |= {each["spec"]["target"]["name"] for each in self.of("ExternalSecret").values()}
        made |= {f"{name}-{what}" for name in self.of("Cluster") for what in ("app", "ca")}
        return made | self.needed

    def references(self) -> Iterator[tuple[str, str, str]]:
        """Yield who names what: the object, and kind and name of the other one."""
        kinds = {
            "issuerRef": "Issuer",
            "secretStoreRef": "SecretStore",
            "cluster": "Cluster",
            "serviceAccountRef": "ServiceAccount",
            "secretKeyRef": "Secret",
            "accessKeyId": "Secret",
            "secretAccessKey": "Secret",
            "certificateRefs": "Secret",
            "parentRefs": "Gateway",
            "targetRefs": "HTTPRoute",
            "backendRefs": "Service",
        }
        texts = {
            "gatewayClassName": "GatewayClass",
            "barmanObjectName": "ObjectStore",
            "serviceAccountName": "ServiceAccount",
        }
        for each in self.objects:
            for key, value in _members(each.get("spec", {})):
                if key in texts:
                    yield each["kind"], texts[key], value
                elif key in kinds:
                    for named in value if isinstance(value, list) else [value]:
                        yield each["kind"], kinds[key], named["name"]
                elif key == "secret" and isinstance(value, dict):
                    yield each["kind"], "Secret", value["secretName"]
                elif key == "configMap" and isinstance(value, dict):
                    yield each["kind"], "ConfigMap", value["name"]
                elif key == "ca" and isinstance(value, dict):
                    yield each["kind"], "Secret", value["secretName"]


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _members(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _members(inner)


def check_overlay(folder: Path, name: str) -> None:
    """Check an overlay; raises SchemaViolation, too."""
    overlay = Overlay(folder, name)
    for each in overlay.objects:
        if not each["apiVersion"].startswith(_UNPUBLISHED):
            validate(each)
    _check_volumes(overlay)
    # The application that envoy-gateway's route leads to is somebody else's.
    there = {("Service", "shop")} | {("Secret", secret) for secret in overlay.secrets()}
    there |= {(each["kind"], each["metadata"]["name"]) for each in overlay.objects}
    missing = {
        f"{who} names {what} {name}"
        for who, what, name in overlay.references()
        if (what, name) not in there
    }
    assert not missing, missing
    labels = overlay.pod["metadata"]["labels"].items()
    for kind in ("Service", "NetworkPolicy", "PodDisruptionBudget", "ClusterSPIFFEID"):
        for each in overlay.of(kind).values():
            spec = each["spec"]
            chosen = spec.get("podSelector") or spec["selector"]
            assert chosen.get("matchLabels", chosen).items() <= labels, each["metadata"]["name"]
    _check_ports(overlay)
    own = {
        "cert-manager": _check_certificates,
        "cloudnative-pg": _check_database,
        "envoy-gateway": _check_gateway,
        "external-secrets": _check_secrets,
        "pod-certificates": _check_projected,
        "spire": _check_helper,
    }
    own[name](overlay)


def _check_volumes(overlay: Overlay) -> None:
    pod = overlay.pod["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    # A volume has one source only, also where a patch has replaced it.
    assert all(len(volume) == 2 for volume in volumes.values())
    for container in (*pod["initContainers"], *pod["containers"]):
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) <= set(volumes)
        if container["image"].startswith("authsvc:"):
            # The migration needs no certificates.
            parts = ("config", "secrets") if container["name"] == "migrate" else MOUNTS
            assert {f"/etc/authsvc/{part}": part for part in parts}.items() <= mounts.items()
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}


def _check_ports(overlay: Overlay) -> None:
    ways_in = [each["spec"]["ingress"] for each in overlay.of("NetworkPolicy").values()]
    ways_in += [each["spec"] for each in overlay.of("Service").values()]
    for key, ports in _members(ways_in):
        assert key != "ports" or {port["port"] for port in ports} <= {*recipe.PORTS}
    for route in overlay.of("TLSRoute").values():
        for key, references in _members(route["spec"]):
            if key == "backendRefs":
                assert {each["port"] for each in references} == {8443}


def _check_certificates(overlay: Overlay) -> None:
    service, caller = (overlay.of("Certificate")[name]["spec"] for name in ("authsvc", "app"))
    names = {f"{name}{suffix}" for name in overlay.of("Service") for suffix in ("", ".default.svc")}
    assert set(service["dnsNames"]) == names
    assert (len(caller["uris"]), "dnsNames" in caller) == (1, False)
    [config] = (each["data"]["config.toml"] for each in overlay.of("ConfigMap").values())
    assert f'"{caller["uris"][0]}"' in config
    for each, usage in ((service, "server auth"), (caller, "client auth")):
        assert usage in each["usages"]
        assert each["issuerRef"]["name"] == "authsvc"
        assert _hours(each["renewBefore"]) <= _hours(each["duration"]) / 2
        assert each["privateKey"]["rotationPolicy"] == "Always"
    assert overlay.of("Certificate")["authsvc-ca"]["spec"]["isCA"] is True


def _hours(text: str) -> int:
    assert text.endswith("h")
    return int(text[:-1])


def _check_database(overlay: Overlay) -> None:
    cluster = overlay.of("Cluster")["authsvc-db"]["spec"]
    synchronous = cluster["postgresql"]["synchronous"]
    assert (synchronous["dataDurability"], synchronous["number"]) == ("required", 1)
    assert synchronous["failoverQuorum"] is True
    assert cluster["instances"] == 3
    assert cluster["affinity"]["podAntiAffinityType"] == "required"
    assert cluster["bootstrap"]["initdb"]["owner"] == "authsvc"
    [plugin] = cluster["plugins"]
    assert plugin["isWALArchiver"] is True
    backup = overlay.of("ScheduledBackup")["authsvc-nightly"]["spec"]
    assert backup["pluginConfiguration"]["name"] == plugin["name"]
    # With the seconds that CloudNativePG's schedules begin with.
    assert len(backup["schedule"].split()) == 6
    pooler = overlay.of("Pooler")["authsvc-db-pooler"]["spec"]
    assert (pooler["type"], pooler["pgbouncer"]["poolMode"]) == ("rw", "transaction")
    pod = overlay.pod["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        variables = {each["name"]: each.get("value", "") for each in container["env"]}
        url = urlsplit(variables["AUTHSVC_DATABASE__URL"])
        listener = urlsplit(variables["AUTHSVC_DATABASE__LISTENER_URL"])
        assert (url.hostname, listener.hostname) == ("authsvc-db-pooler", "authsvc-db-rw")
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        for each, mode in ((url, "verify-ca"), (listener, "verify-full")):
            assert (each.username, each.path) == ("authsvc", "/authsvc")
            folder = "/etc/authsvc/database"
            assert each.query == f"sslmode={mode}&sslrootcert={folder}/ca.crt"
            assert folder in mounts


def _check_gateway(overlay: Overlay) -> None:
    listeners = {
        each["name"]: each for each in overlay.of("Gateway")["public"]["spec"]["listeners"]
    }
    for kind, protocol in (("HTTPRoute", "HTTPS"), ("TLSRoute", "TLS")):
        for route in overlay.of(kind).values():
            [parent] = route["spec"]["parentRefs"]
            listener = listeners[parent["sectionName"]]
            assert listener["protocol"] == protocol
            assert route["spec"]["hostnames"] == [listener["hostname"]]
    # The service itself has to see who calls.
    assert listeners["authsvc"]["tls"] == {"mode": "Passthrough"}
    [provider] = overlay.of("SecurityPolicy")["shop"]["spec"]["jwt"]["providers"]
    keys = urlsplit(provider["remoteJWKS"]["uri"])
    assert keys.hostname is not None
    service = overlay.of("Service")[keys.hostname.partition(".")[0]]["spec"]
    assert keys.port in {port["port"] for port in service["ports"]}
    assert keys.path == "/.well-known/jwks.json"
    cached = durations.parse(provider["remoteJWKS"]["cacheDuration"])
    assert cached * 2 <= TokenSettings().key_publish_lead
    assert provider["audiences"] == [TokenSettings().audience]
    policy = overlay.of("NetworkPolicy")["authsvc-from-gateway"]["spec"]
    assert {port["port"] for port in policy["ingress"][0]["ports"]} == {8443, keys.port}


def _check_secrets(overlay: Overlay) -> None:
    secret = overlay.of("ExternalSecret")["authsvc"]["spec"]
    assert secret["target"]["deletionPolicy"] == "Retain"
    assert {each["secretKey"] for each in secret["data"]} == {
        "database__url",
        "secrets__keyring",
        "secrets__peppers",
    }


def _check_projected(overlay: Overlay) -> None:
    [tls] = (each for each in overlay.pod["spec"]["volumes"] if each["name"] == "tls")
    certificate, bundle = (next(iter(source.values())) for source in tls["projected"]["sources"])
    paths = {certificate["keyPath"], certificate["certificateChainPath"], bundle["path"]}
    assert paths == _FILES
    assert certificate["keyPath"] == "tls.key"
    assert bundle["path"] == "ca.crt"
    assert certificate["signerName"] == bundle["signerName"]


def _check_helper(overlay: Overlay) -> None:
    helper = overlay.pod["spec"]["initContainers"][0]
    assert (helper["name"], helper["restartPolicy"]) == ("spiffe-helper", "Always")
    mounts = {mount["name"]: mount["mountPath"] for mount in helper["volumeMounts"]}
    [config] = (
        each["data"]["helper.conf"]
        for name, each in overlay.of("ConfigMap").items()
        if name.startswith("authsvc-spiffe-helper")
    )
    said = dict(re.findall(r'^ *(\w+) = "?([^"\n]*)"?$', config, re.MULTILINE))
    assert said["cert_dir"] == mounts["tls"] == "/etc/authsvc/tls"
    assert said["agent_address"].startswith(f"{mounts['spiffe']}/")
    assert helper["args"][1] == f"{mounts['helper']}/helper.conf"
    assert (said["svid_file_name"], said["svid_key_file_name"], said["svid_bundle_file_name"]) == (
        "tls.crt",
        "tls.key",
        "ca.crt",
    )
    probe = helper["startupProbe"]["httpGet"]
    assert (str(probe["port"]), probe["path"]) == (said["bind_port"], said["readiness_path"])
    # The service runs as another user of the same group.
    assert (said["cert_file_mode"], said["key_file_mode"]) == ("0444", "0440")
    names = overlay.of("ClusterSPIFFEID")["authsvc"]["spec"]["dnsNameTemplates"]
    suffixes = ("", ".{{ .PodMeta.Namespace }}.svc")
    assert set(names) == {
        f"{name}{suffix}" for name in overlay.of("Service") for suffix in suffixes
    }


def check_argo_cd(folder: Path) -> None:
    """Check the application of Argo CD, without what is to be changed in it."""
    text = (folder / "argo-cd/application.yaml").read_text()
    application = yaml.safe_load(text)
    validate(application)
    policy = application["spec"]["syncPolicy"]
    assert policy["automated"] == {"prune": True, "selfHeal": True}
    assert "ServerSideApply=true" in policy["syncOptions"]
    [ignored] = application["spec"]["ignoreDifferences"]
    assert (ignored["kind"], ignored["name"]) == ("Deployment", "authsvc")
    assert ignored["jsonPointers"] == ["/spec/replicas"]


def check_compose(folder: Path) -> None:
    """Check the services of the compose file against the image and one another."""
    compose = yaml.safe_load((folder / "compose/compose.yaml").read_text())
    services = compose["services"]
    secrets = folder / "compose"
    for name in ("migrate", "authsvc"):
        service = services[name]
        assert service["image"] == f"authsvc:{__version__}"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        # The image's entry point, and no program that it lacks.
        assert "entrypoint" not in service
        targets = {mount.split(":")[1] for mount in service["volumes"]}
        assert targets == {
            "/etc/authsvc/config/config.toml",
            "/etc/authsvc/secrets",
            "/etc/authsvc/tls",
        }
        assert all(mount.endswith(":ro") for mount in service["volumes"])
        environment = service["environment"]
        assert environment["AUTHSVC_CONFIG"] in targets
        assert environment["AUTHSVC_SECRETS_DIR"] in targets
        assert (secrets / service["volumes"][0].split(":")[0]).is_file()
    assert services["migrate"]["depends_on"]["database"]["condition"] == "service_healthy"
    serving = services["authsvc"]
    assert serving["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert durations.parse(serving["stop_grace_period"]) > _DRAIN
    assert serving["healthcheck"]["test"][1] == "python"
    assert "127.0.0.1:8081/readyz" in serving["healthcheck"]["test"][3]
    # Only this machine reaches them: /metrics is plain HTTP.
    published = [each.split(":") for each in serving["ports"]]
    assert {int(port) for *_, port in published} == set(recipe.PORTS)
    assert {host for host, *_ in published} == {"127.0.0.1"}
    database = services["database"]
    assert database["environment"]["POSTGRES_USER"] == "authsvc"
    secret = database["environment"]["POSTGRES_PASSWORD_FILE"].removeprefix("/run/secrets/")
    assert database["secrets"] == [secret]
    assert secret in compose["secrets"]
    assert "ports" not in database
    [data] = database["volumes"]
    assert data.partition(":")[0] in compose["volumes"]


# Each takes something from whoever would take over the process.
_HARDENED = (
    *("CapabilityBoundingSet=", "NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes"),
    *("PrivateDevices=yes", "PrivateTmp=yes", "RestrictNamespaces=yes", "LockPersonality=yes"),
    *("RestrictSUIDSGID=yes", "SystemCallArchitectures=native", "DynamicUser=yes", "UMask=0077"),
    *("ProtectProc=invisible", "RestrictRealtime=yes", "SystemCallFilter=@system-service"),
)


def check_systemd(folder: Path) -> None:
    """Check the unit against the settings beside it and the service's behaviour."""
    lines = (folder / "systemd/authsvc.service").read_text().splitlines()
    assert set(_HARDENED) <= set(lines)
    said = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
    assert durations.parse(f"{said['TimeoutStopSec']}s") > _DRAIN
    assert said["Restart"] == "on-failure"
    assert said["ExecReload"] == "kill -HUP $MAINPID"
    assert said["ExecStartPre"].endswith(" migrate")
    assert said["ExecStart"].endswith(" serve")
    # Where planned stops are counted.
    assert said["StateDirectory"] == "authsvc"
    assert "Environment=AUTHSVC_SECRETS_DIR=%d" in lines
    credentials = {
        line.removeprefix("LoadCredential=") for line in lines if line.startswith("LoadCredential=")
    }
    assert credentials == {
        f"{name}:/etc/authsvc/secrets/{name}"
        for name in ("database__url", "secrets__keyring", "secrets__peppers")
    }


def check_patroni(folder: Path) -> None:
    """Check that a failover forgets nothing, and that nobody connects without TLS."""
    settings = yaml.safe_load((folder / "patroni/patroni.yml").read_text())
    dcs = settings["bootstrap"]["dcs"]
    assert dcs["synchronous_mode"] is True
    assert dcs["synchronous_mode_strict"] is True
    assert dcs["postgresql"]["use_pg_rewind"] is True
    assert "data-checksums" in settings["bootstrap"]["initdb"]
    postgresql = settings["postgresql"]
    assert postgresql["parameters"]["ssl"] == "on"
    rules = [line.split() for line in postgresql["pg_hba"]]
    assert {rule[0] for rule in rules} == {"local", "hostssl"}
    assert {rule[-1] for rule in rules if rule[0] == "hostssl"} == {"scram-sha-256"}
    users = {account["username"] for account in postgresql["authentication"].values()}
    assert users <= {rule[2] for rule in rules}
    assert ["hostssl", "authsvc", "authsvc"] in [rule[:3] for rule in rules]
