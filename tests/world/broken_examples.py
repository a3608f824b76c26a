"""The examples with a mistake in each: what the checks of `examples.py` have to notice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """An example in which `before` has become `after`."""

    path: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path}: {' '.join(self.before.split())}"


_BY_PATH: Mapping[str, Sequence[tuple[str, str]]] = {
    "argo-cd/application.yaml": (
        ("selfHeal: true", "selfHeal: false"),
        ("prune: true", "prune: false"),
        ("- ServerSideApply=true", "- Validate=true"),
        ("[/spec/replicas]", "[/spec/replica]"),
        ("      name: authsvc\n      json", "      name: other\n      json"),
    ),
    "cert-manager/certificates.yaml": (
        ("secretName: authsvc-tls", "secretName: authsvc-certificate"),
        ("    - authsvc-headless.default.svc\n", ""),
        ("server auth", "client auth"),
        ("renewBefore: 720h", "renewBefore: 2000h"),
        ("    name: authsvc\n---", "    name: authsvc-root\n---"),
        ("rotationPolicy: Always", "rotationPolicy: Never"),
        (
            "  uris:\n    - spiffe://authsvc.dev/app\n",
            "  uris:\n    - spiffe://authsvc.dev/app\n    - spiffe://authsvc.dev/edge\n",
        ),
        ("spiffe://authsvc.dev/app", "spiffe://authsvc.dev/nobody"),
        ("signature, client auth", "signature, server auth"),
    ),
    "cert-manager/issuers.yaml": (
        ("isCA: true", "isCA: false"),
        ("  name: authsvc\nspec:\n  ca:", "  name: other\nspec:\n  ca:"),
        ("    secretName: authsvc-ca", "    secretName: authsvc-root"),
        ("    name: authsvc-root", "    name: authsvc-roots"),
    ),
    "cloudnative-pg/backup.yaml": (
        ("name: authsvc-db\n", "name: authsvc\n"),
        ("0 0 2 * * *", "0 2 * * *"),
        ("name: barman-cloud.cloudnative-pg.io", "name: barman-cloud"),
        (
            "name: backup-credentials\n        key: ACCESS_KEY",
            "name: backup\n        key: ACCESS_KEY",
        ),
    ),
    "cloudnative-pg/cluster.yaml": (
        ("dataDurability: required", "dataDurability: preferred"),
        ("instances: 3", "instances: 2"),
        ("failoverQuorum: true", "failoverQuorum: false"),
        ("podAntiAffinityType: required", "podAntiAffinityType: preferred"),
        ("isWALArchiver: true", "isWALArchiver: false"),
        ("barmanObjectName: authsvc-backup", "barmanObjectName: backup"),
        ("owner: authsvc", "owner: app"),
    ),
    "cloudnative-pg/deployment.yaml": (
        ("@authsvc-db-pooler/", "@authsvc-db-rw/"),
        ("sslmode=verify-ca", "sslmode=require"),
        ("sslmode=verify-full", "sslmode=verify-ca"),
        ("secretName: authsvc-db-ca", "secretName: authsvc-ca"),
        ("name: authsvc-db-app", "name: authsvc-app"),
        ("mountPath: /etc/authsvc/database", "mountPath: /etc/database"),
        (
            "            - name: database\n              mountPath",
            "            - name: databases\n              mountPath",
        ),
    ),
    "cloudnative-pg/pooler.yaml": (
        ("type: rw", "type: ro"),
        ("poolMode: transaction", "poolMode: session"),
        ("name: authsvc-db\n", "name: authsvc\n"),
    ),
    "envoy-gateway/application.yaml": (
        ("sectionName: https", "sectionName: http"),
        ("hostnames: [shop", "hostnames: [shops"),
        ("name: public", "name: private"),
        ("      name: shop\n  jwt", "      name: shops\n  jwt"),
        (":8081/", ":8080/"),
        ("jwks.json", "jwks"),
        ("cacheDuration: 30s", "cacheDuration: 1h"),
        ("audiences: [authsvc]", "audiences: [shop]"),
        ("authsvc.default", "auth.default"),
        ("jwt:", "jwtt:"),
    ),
    "envoy-gateway/gateway.yaml": (
        ("gatewayClassName: envoy", "gatewayClassName: envoys"),
        ("mode: Passthrough", "mode: Terminate"),
        ("protocol: TLS", "protocol: HTTPS"),
        ("name: shop-tls", "name: shops-tls"),
        ("hostname: auth.", "hostname: auths."),
    ),
    "envoy-gateway/networkpolicy.yaml": (
        ("app.kubernetes.io/name: authsvc", "app.kubernetes.io/name: auth"),
        ("        - port: 8081\n", ""),
        ("port: 8443", "port: 8444"),
    ),
    "envoy-gateway/service.yaml": (
        ("port: 8443", "port: 8081"),
        ("sectionName: authsvc", "sectionName: https"),
        ("        - name: authsvc\n", "        - name: auth\n"),
    ),
    "external-secrets/secret.yaml": (
        ("deletionPolicy: Retain", "deletionPolicy: Delete"),
        ("secrets__peppers", "secrets__pepper"),
        ("    kind: SecretStore\n    name: authsvc", "    kind: SecretStore\n    name: vault"),
        ("    name: authsvc\n    #", "    name: auth\n    #"),
    ),
    "external-secrets/store.yaml": (("            name: authsvc", "            name: vault"),),
    "pod-certificates/deployment.yaml": (
        ("keyPath: tls.key", "keyPath: key.pem"),
        ("path: ca.crt", "path: ca.pem"),
        (
            "signerName: example.com/service\n                  labelSelector",
            "signerName: example.com/other\n                  labelSelector",
        ),
        ("secret: null\n          ", ""),
        ("keyType: ECDSAP256", "keyTypo: ECDSAP256"),
    ),
    "spire/deployment.yaml": (
        ("restartPolicy: Always", "restartPolicy: OnFailure"),
        ("port: 8082", "port: 8083"),
        ("path: /ready", "path: /live"),
        ("              mountPath: /etc/authsvc/tls", "              mountPath: /etc/tls"),
        ("mountPath: /spiffe-workload-api", "mountPath: /spiffe"),
        ("mountPath: /etc/spiffe-helper", "mountPath: /etc/helper"),
        ("drop: [ALL]", "drop: []"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"),
        ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"),
        ("name: authsvc-spiffe-helper", "name: spiffe-helper"),
    ),
    "spire/helper.conf": (
        ('"tls.crt"', '"svid.pem"'),
        ('"ca.crt"', '"bundle.pem"'),
        ("= 0440", "= 0400"),
        ('cert_dir = "/etc/authsvc/tls"', 'cert_dir = "/tls"'),
        ("bind_port = 8082", "bind_port = 80"),
    ),
    "spire/identity.yaml": (
        ("app.kubernetes.io/name: authsvc", "app: authsvc"),
        ("    - authsvc-headless\n", ""),
    ),
    "compose/compose.yaml": (
        ("image: authsvc:0.1.0", "image: authsvc"),
        ("read_only: true", "read_only: false"),
        ("cap_drop: [ALL]", "cap_drop: []"),
        ("no-new-privileges:true", "no-new-privileges:false"),
        ("./secrets:/etc/authsvc/secrets:ro", "./secrets:/etc/authsvc/secrets"),
        ("./config.toml", "./authsvc.toml"),
        ("CONFIG: /etc/authsvc/config/config.toml", "CONFIG: /etc/authsvc/config.toml"),
        ("SECRETS_DIR: /etc/authsvc/secrets", "SECRETS_DIR: /run/secrets"),
        ("service_healthy", "service_started"),
        ("service_completed_successfully", "service_started"),
        ("stop_grace_period: 40s", "stop_grace_period: 10s"),
        ("8081/readyz", "8081/livez"),
        ("127.0.0.1:8081:8081", "8081:8081"),
        ("127.0.0.1:8443:8443", "127.0.0.1:8443:8444"),
        ("/run/secrets/database_password", "/run/secrets/password"),
        ("  database_password:\n", "  password:\n"),
        ("  database: {}", "  data: {}"),
        ("- python\n", "- wget\n"),
    ),
    "systemd/authsvc.service": (
        ("TimeoutStopSec=40", "TimeoutStopSec=15"),
        ("Restart=on-failure", "Restart=no"),
        ("kill -HUP", "kill -TERM"),
        ("SECRETS_DIR=%d", "SECRETS_DIR=/etc/authsvc/secrets"),
        ("LoadCredential=secrets__peppers", "#LoadCredential=secrets__peppers"),
        ("StateDirectory=authsvc\n", ""),
        (
            "ExecStartPre=/opt/authsvc/bin/authsvc migrate",
            "ExecStartPre=/opt/authsvc/bin/authsvc health",
        ),
        ("NoNewPrivileges=yes", "NoNewPrivileges=no"),
        ("ProtectSystem=strict", "ProtectSystem=full"),
        ("CapabilityBoundingSet=", "#CapabilityBoundingSet="),
        ("DynamicUser=yes", "DynamicUser=no"),
    ),
    "patroni/patroni.yml": (
        ("synchronous_mode: true", "synchronous_mode: false"),
        ("synchronous_mode_strict: true", "synchronous_mode_strict: false"),
        ("use_pg_rewind: true", "use_pg_rewind: false"),
        ("    - data-checksums\n", ""),
        ('ssl: "on"', 'ssl: "off"'),
        ("- hostssl authsvc authsvc", "- host authsvc authsvc"),
        (
            "hostssl authsvc authsvc 10.0.0.0/24 scram-sha-256",
            "hostssl authsvc authsvc 10.0.0.0/24 md5",
        ),
        ("username: rewinder", "username: rewind"),
    ),
}
MUTANTS = tuple(
    Mutant(path, before, after) for path, pairs in _BY_PATH.items() for before, after in pairs
)
