"""The examples of deployments: each matches the schema of what it is for, and the parts fit."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from authsvc.config.loading import load
from authsvc.dev.binaries import find_binaries
from deploy.image import recipe
from tests.world.containers import MOUNTS
from tests.world.crds import download_module
from tests.world.install import KUBECTL
from tests.world.schemas import SchemaViolation, validate
from tests.world.tools import PATRONI

pytestmark = pytest.mark.world

_FOLDER = Path(__file__).parents[2] / "deploy" / "examples"
_OVERLAYS = sorted(path.parent.name for path in _FOLDER.glob("*/kustomization.yaml"))
# Their definitions are in no registry that the tests reach.
_UNPUBLISHED = ("postgresql.cnpg.io/", "spire.spiffe.io/")
_COMPOSE = "github.com/compose-spec/compose-go/v2@v2.16.2"
_KEY = json.dumps([{"id": "1", "key": "A" * 43 + "="}])


def _render(name: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [*KUBECTL.command(), "kustomize", str(_FOLDER / name)],
        check=True,
        capture_output=True,
        text=True,
    )
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def _pod(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (deployment,) = (each for each in objects if each["kind"] == "Deployment")
    pod: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("name", _OVERLAYS)
def test_overlay_matches_schemas(name: str) -> None:
    objects = _render(name)
    for each in objects:
        if not each["apiVersion"].startswith(_UNPUBLISHED):
            validate(each)
    pod = _pod(objects)
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


def test_misspelt_field_of_others_is_refused() -> None:
    (application,) = yaml.safe_load_all((_FOLDER / "argo-cd/application.yaml").read_text())
    validate(application)
    with pytest.raises(SchemaViolation, match="sauce"):
        validate(application | {"spec": application["spec"] | {"sauce": {}}})


def test_cloudnative_pg_loses_nothing_and_is_what_the_service_connects_to() -> None:
    objects = {(each["kind"], each["metadata"]["name"]): each for each in _render("cloudnative-pg")}
    cluster = objects["Cluster", "authsvc-db"]["spec"]
    assert cluster["postgresql"]["synchronous"]["dataDurability"] == "required"
    assert cluster["instances"] == 3
    pooler = objects["Pooler", "authsvc-db-pooler"]["spec"]
    assert (pooler["cluster"]["name"], pooler["type"]) == ("authsvc-db", "rw")
    for container in _pod([*objects.values()])["containers"]:
        variables = {each["name"]: each.get("value", "") for each in container["env"]}
        assert "@authsvc-db-pooler/" in variables["AUTHSVC_DATABASE__URL"]
        assert "@authsvc-db-rw/" in variables["AUTHSVC_DATABASE__LISTENER_URL"]


@pytest.mark.parametrize("name", ["compose", "systemd"])
def test_settings_are_accepted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AUTHSVC_CONFIG", "AUTHSVC_SECRETS_DIR"):
        monkeypatch.delenv(variable, raising=False)
    for key in ("keyring", "peppers"):
        (tmp_path / f"secrets__{key}").write_text(_KEY)
    (tmp_path / "database__url").write_text("postgresql://authsvc:x@database/authsvc")
    settings = load(_FOLDER / name / "config.toml", secrets_dir=tmp_path)
    assert settings.grpc.address.endswith(":8443")


def test_compose_file_matches_schema_and_image() -> None:
    compose = yaml.safe_load((_FOLDER / "compose/compose.yaml").read_text())
    schema = json.loads((download_module(_COMPOSE) / "schema/compose-spec.json").read_text())
    jsonschema.validate(compose, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(compose | {"surplus": {}}, schema)
    for name in ("migrate", "authsvc"):
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        # The image's entry point, and no program that it lacks.
        assert "entrypoint" not in service
    assert compose["services"]["authsvc"]["healthcheck"]["test"][1] == "python"
    ports = {int(each.rpartition(":")[2]) for each in compose["services"]["authsvc"]["ports"]}
    assert ports == set(recipe.PORTS)


def test_systemd_unit_is_valid(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    text = (_FOLDER / "systemd/authsvc.service").read_text()
    unit = tmp_path / "authsvc.service"
    # What it starts is not installed here.
    unit.write_text(text.replace("/opt/authsvc/bin/authsvc", shutil.which("true") or ""))
    done = subprocess.run(
        [analyze, "verify", str(unit)], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(f"{text}\n[Service]\nProtectSistem=strict\n")
    done = subprocess.run(
        [analyze, "verify", str(unit)], check=False, capture_output=True, text=True
    )
    assert "ProtectSistem" in done.stderr


def test_patroni_accepts_its_settings(tmp_path: Path) -> None:
    text = (_FOLDER / "patroni/patroni.yml").read_text()
    binaries = _with_all_programs(tmp_path)
    text = re.sub(r"bin_dir: \S+", f"bin_dir: {binaries}", text)
    assert _validate_patroni(text, tmp_path) == (0, "")
    status, said = _validate_patroni(text.replace("ttl: 30", "ttl: soon"), tmp_path)
    assert status == 1
    assert "bootstrap.dcs.ttl" in said


def _with_all_programs(folder: Path) -> Path:
    """Return a folder with the programs that Patroni looks for, but never starts here."""
    binaries = folder / "bin"
    binaries.mkdir()
    embedded = find_binaries()
    for name in ("pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready"):
        program = embedded / name
        target = program if program.exists() else Path(shutil.which("true") or "")
        (binaries / name).symlink_to(target)
    return binaries


def _validate_patroni(text: str, folder: Path) -> tuple[int, str]:
    settings = folder / "patroni.yml"
    settings.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "patroni", "--validate-config", "--ignore-listen-port", settings],
        env={"PYTHONPATH": str(PATRONI.bin)},
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, (done.stdout + done.stderr).strip()
