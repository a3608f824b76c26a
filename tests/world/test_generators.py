"""Old versions of protoc, and the plugins of buf.gen.yaml, generate clients in every language."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.world.generation import PROTOS, generate, run
from tests.world.install import PROTOC
from tests.world.tools import GO, GO_GRPC, JAVA, OLD_PROTOC, RUST, RUST_GRPC, TYPESCRIPT

# They fetch libraries, and compile.
pytestmark = [pytest.mark.world, pytest.mark.timeout(1200)]

BUILT_IN = ("cpp", "csharp", "java", "objc", "php", "python", "ruby")
PACKAGE = Path("authsvc/v1")


@pytest.mark.parametrize("version", ["3.15", "3.21"])
def test_old_protoc_generates_every_language(version: str, tmp_path: Path) -> None:
    protoc = [str(OLD_PROTOC.bin / "protoc")] if version == "3.15" else PROTOC.command()
    known = PROTOC.folder / "usr/include"
    asked = subprocess.run([*protoc, "--version"], check=True, capture_output=True, text=True)
    assert asked.stdout.startswith(f"libprotoc {version}.")
    outputs = [f"--{language}_out={tmp_path}" for language in BUILT_IN]
    files = sorted(path.relative_to(PROTOS) for path in PROTOS.rglob("*.proto"))
    run([*protoc, f"-I{PROTOS}", f"-I{known}", *outputs, *files], tmp_path)
    assert (tmp_path / PACKAGE / "LoginRequest.java").is_file()
    assert (tmp_path / PACKAGE / "auth_service_pb2.py").is_file()


def test_go_compiles(tmp_path: Path) -> None:
    folder = generate("go", tmp_path, GO, GO_GRPC)
    (folder / "go.mod").write_text(
        "module example.test/client\n\ngo 1.24\n\n"
        "require (\n\tgoogle.golang.org/grpc v1.85.0\n\tgoogle.golang.org/protobuf v1.36.12\n)\n"
    )
    run(["go", "build", "-mod=mod", "./..."], folder)


def test_typescript_compiles(tmp_path: Path) -> None:
    folder = generate("typescript", tmp_path, TYPESCRIPT)
    (folder / "node_modules").symlink_to(TYPESCRIPT.folder / "node_modules")
    options = {
        "target": "es2022",
        "module": "commonjs",
        "strict": True,
        "esModuleInterop": True,
        "noEmit": True,
        "types": ["node"],
    }
    project = {"compilerOptions": options, "include": ["authsvc", "google"]}
    (folder / "tsconfig.json").write_text(json.dumps(project))
    run([TYPESCRIPT.bin / "tsc", "--project", "."], folder)


def test_java_compiles(tmp_path: Path) -> None:
    folder = generate("java", tmp_path, JAVA)
    libraries = {
        "io.grpc:grpc-protobuf": "1.76.0",
        "io.grpc:grpc-stub": "1.76.0",
        "com.google.protobuf:protobuf-java": "3.25.8",
    }
    dependencies = "".join(
        "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version>"
        "</dependency>".format(*name.split(":"), version)
        for name, version in libraries.items()
    )
    (folder / "pom.xml").write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>test</groupId><artifactId>client</artifactId><version>1</version><properties>"
        "<maven.compiler.source>17</maven.compiler.source>"
        "<maven.compiler.target>17</maven.compiler.target>"
        "<project.build.sourceEncoding>UTF-8</project.build.sourceEncoding></properties>"
        f"<dependencies>{dependencies}</dependencies>"
        "<build><sourceDirectory>authsvc</sourceDirectory></build></project>"
    )
    run(["mvn", "-q", "-B", "compile"], folder)
    assert (folder / "target/classes" / PACKAGE / "AuthServiceGrpc.class").is_file()


def test_rust_compiles(tmp_path: Path) -> None:
    folder = generate("rust", tmp_path, RUST, RUST_GRPC)
    (folder / "Cargo.toml").write_text(
        '[package]\nname = "client"\nversion = "0.1.0"\nedition = "2021"\n\n'
        '[lib]\npath = "lib.rs"\n\n[dependencies]\n'
        'prost = "0.14"\nprost-types = "0.14"\ntonic = "0.14"\ntonic-prost = "0.14"\n'
    )
    (folder / "lib.rs").write_text(f'#[path = "{PACKAGE}/authsvc.v1.rs"]\npub mod v1;\n')
    # Later runs need not compile the libraries again.
    run(["cargo", "check", "--quiet"], folder, {"CARGO_TARGET_DIR": str(RUST.folder / "target")})


def test_csharp_is_generated(tmp_path: Path) -> None:
    # The plugin for services comes from NuGet alone.
    folder = generate("csharp", tmp_path, without="grpc_csharp_plugin")
    assert (folder / "Authsvc/V1/AuthService.cs").is_file()
