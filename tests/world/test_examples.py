"""The examples of deployments: each matches the schema of what it is for, and the parts fit."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import jsonschema
import pytest
import yaml

from authsvc.config.loading import load
from authsvc.dev.binaries import find_binaries
from tests.world.broken_examples import MUTANTS, Mutant
from tests.world.crds import download_module
from tests.world.examples import (
    check_argo_cd,
    check_compose,
    check_overlay,
    check_patroni,
    check_systemd,
)
from tests.world.schemas import SchemaViolation, validate
from tests.world.tools import PATRONI

pytestmark = pytest.mark.world

_FOLDER = Path(__file__).parents[2] / "deploy" / "examples"
_OVERLAYS = sorted(path.parent.name for path in _FOLDER.glob("*/kustomization.yaml"))
_CHECKS: Mapping[str, Callable[[Path], None]] = {
    "argo-cd": check_argo_cd,
    "compose": check_compose,
    "patroni": check_patroni,
    "systemd": check_systemd,
}
_COMPOSE = "github.com/compose-spec/compose-go/v2@v2.16.2"
_KEY = json.dumps([{"id": "1", "key": "A" * 43 + "="}])


@pytest.mark.parametrize("name", _OVERLAYS)
def test_parts_of_overlay_fit(name: str) -> None:
    check_overlay(_FOLDER, name)


@pytest.mark.parametrize("check", _CHECKS.values(), ids=_CHECKS)
def test_parts_of_example_fit(check: Callable[[Path], None]) -> None:
    check(_FOLDER)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_broken_example_is_noticed(mutant: Mutant, tmp_path: Path) -> None:
    """Each line that is checked is broken in turn."""
    for name in ("examples", "kubernetes"):
        shutil.copytree(_FOLDER.parent / name, tmp_path / name)
    path = tmp_path / "examples" / mutant.path
    text = path.read_text()
    assert mutant.before in text
    path.write_text(text.replace(mutant.before, mutant.after, 1))
    name = mutant.path.partition("/")[0]
    check = _CHECKS.get(name, partial(check_overlay, name=name))
    with pytest.raises((AssertionError, KeyError, SchemaViolation)):
        check(tmp_path / "examples")


def test_misspelt_field_of_others_is_refused() -> None:
    (application,) = yaml.safe_load_all((_FOLDER / "argo-cd/application.yaml").read_text())
    validate(application)
    with pytest.raises(SchemaViolation, match="sauce"):
        validate(application | {"spec": application["spec"] | {"sauce": {}}})


@pytest.mark.parametrize("name", ["compose", "systemd"])
def test_settings_are_accepted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AUTHSVC_CONFIG", "AUTHSVC_SECRETS_DIR"):
        monkeypatch.delenv(variable, raising=False)
    for key in ("keyring", "peppers"):
        (tmp_path / f"secrets__{key}").write_text(_KEY)
    (tmp_path / "database__url").write_text("postgresql://authsvc:x@database/authsvc")
    settings = load(_FOLDER / name / "config.toml", secrets_dir=tmp_path)
    assert settings.grpc.address.endswith(":8443")


def test_compose_file_matches_schema() -> None:
    compose = yaml.safe_load((_FOLDER / "compose/compose.yaml").read_text())
    schema = json.loads((download_module(_COMPOSE) / "schema/compose-spec.json").read_text())
    jsonschema.validate(compose, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(compose | {"surplus": {}}, schema)


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
