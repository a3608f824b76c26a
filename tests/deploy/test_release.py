"""Releases: valid versions, what a release changes, and that a failed one changes nothing."""

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from datetime import date
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import authsvc
from deploy.release import audit, changelog, sbom, schema, version
from deploy.release.__main__ import ROOT, main
from deploy.release.errors import ReleaseError
from deploy.release.version import Version

DAY = date(2026, 11, 26)
CHANGES = "# Changelog\n\n## Unreleased\n\n### Added\n\n- Something.\n"
LOCK = (ROOT / "deploy" / "requirements.lock").read_text()


@pytest.fixture
def project(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A small copy of the project in its own Git repository, at version 0.1.0."""
    # In a Git hook these lead to the repository that the hook belongs to.
    for name in git(tmp_path, "rev-parse", "--local-env-vars").split():
        monkeypatch.delenv(name, raising=False)
    for name in ("NAME", "EMAIL"):
        monkeypatch.setenv(f"GIT_AUTHOR_{name}", "tester@example.test")
        monkeypatch.setenv(f"GIT_COMMITTER_{name}", "tester@example.test")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    # The home folder may be missing or read-only.
    monkeypatch.setenv("BUF_CACHE_DIR", str(tmp_path_factory.mktemp("buf")))
    files = ["pyproject.toml", "protos", "authsvc/py.typed", "deploy/requirements.lock"]
    files += ["deploy/kubernetes/base/kustomization.yaml", "deploy/chart/Chart.yaml"]
    for name in files:
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    (tmp_path / ".gitignore").write_text("/dist/\n/build/\n*.egg-info/\n")
    (tmp_path / "authsvc" / "__init__.py").write_text('__version__ = "0.1.0"\n')
    (tmp_path / "README.md").write_text("docker build -t authsvc:0.1.0 .\n")
    (tmp_path / "CHANGELOG.md").write_text(CHANGES)
    (tmp_path / "protos" / "baseline.json").write_text("{}")
    migrations = tmp_path / schema.MIGRATIONS
    migrations.mkdir(parents=True)
    (migrations / "0001_first.sql").write_text("SELECT 1;")
    (migrations / "0002_second.sql").write_text("SELECT 1;")
    (tmp_path / schema.FILE).write_text('"0.0.9" = 1\n')
    version.set_version(tmp_path, Version(0, 1, 0))
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def git(project: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=project, check=True, capture_output=True, text=True).stdout


def commit(project: Path) -> None:
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "Prepare")


def state(project: Path) -> tuple[str, ...]:
    return git(project, "rev-parse", "HEAD"), git(project, "tag"), git(project, "status", "-s")


@pytest.mark.world
def test_release_is_committed_tagged_and_built(project: Path) -> None:
    assert main(["0.2.0"], project) == 0
    assert (project / "authsvc" / "__init__.py").read_text() == '__version__ = "0.2.0"\n'
    assert {named for _, named in version.named_versions(project)} == {"0.2.0"}
    assert "## Unreleased\n\n## 0.2.0 - 2" in (project / "CHANGELOG.md").read_text()
    assert json.loads((project / "protos" / "baseline.json").read_text())["file"]
    assert (project / schema.FILE).read_text() == '"0.0.9" = 1\n"0.2.0" = 2\n'
    assert git(project, "log", "-1", "--format=%s %D").startswith("Release 0.2.0 HEAD -> ")
    assert git(project, "rev-parse", "v0.2.0^{commit}") == git(project, "rev-parse", "HEAD")
    assert not git(project, "status", "--short")
    dist = project / "dist"
    bill = json.loads((dist / "authsvc-0.2.0.cdx.json").read_text())
    assert bill["metadata"]["component"]["version"] == "0.2.0"
    with tarfile.open(dist / "authsvc-0.2.0.tar.gz") as source:
        assert "authsvc-0.2.0/authsvc/__init__.py" in source.getnames()
    with zipfile.ZipFile(dist / "authsvc-0.2.0-py3-none-any.whl") as wheel:
        assert "authsvc/__init__.py" in wheel.namelist()
    # The next release needs new changes.
    assert main(["0.3.0"], project) == 1


def test_dry_run_prints_changes_and_modifies_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(project)
    assert main(["--dry-run", "0.2.0"], project) == 0
    assert "- Something." in capsys.readouterr().out
    assert state(project) == before


def test_release_that_is_no_patch_needs_a_migration(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / schema.MIGRATIONS / "0002_second.sql").unlink()
    commit(project)
    assert main(["--dry-run", "0.2.0"], project) == 1
    assert "0002_version_0_2.sql" in capsys.readouterr().err
    assert main(["--dry-run", "0.1.1"], project) == 0


def test_failed_release_changes_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "protos" / "authsvc" / "v1" / "broken.proto").write_text("no proto")
    commit(project)
    before = state(project)
    assert main(["0.2.0"], project) == 1
    assert "broken.proto" in capsys.readouterr().err
    assert state(project) == before
    assert (project / "CHANGELOG.md").read_text() == CHANGES


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ("0.2", "'0.2' is not a version"),
        ("v0.2.0", "'v0.2.0' is not a version"),
        ("0.02.0", "'0.02.0' is not a version"),
        ("1.0.0-rc.1", "'1.0.0-rc.1' is not a version"),
        ("0.0.9", "0.0.9 is lower than 0.1.0 in authsvc/__init__.py"),
    ],
)
def test_malformed_or_lower_version_is_rejected(
    project: Path, capsys: pytest.CaptureFixture[str], given: str, cause: str
) -> None:
    assert main([given], project) == 1
    assert cause in capsys.readouterr().err


def test_version_must_exceed_all_tags(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(project, "tag", "v0.10.0")
    assert main(["--dry-run", "0.10.0"], project) == 1
    assert "v0.10.0 exists" in capsys.readouterr().err
    assert main(["--dry-run", "0.9.0"], project) == 1
    assert "not higher than 0.10.0" in capsys.readouterr().err
    assert main(["--dry-run", "0.11.0"], project) == 0


def test_version_must_exceed_those_in_changelog(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "CHANGELOG.md").write_text(f"{CHANGES}\n## 0.2.0 - 2026-11-01\n\n- Old.\n")
    commit(project)
    assert main(["--dry-run", "0.2.0"], project) == 1
    assert "not higher than 0.2.0" in capsys.readouterr().err


def test_uncommitted_changes_prevent_release(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "forgotten.py").touch()
    assert main(["0.2.0"], project) == 1
    assert "not committed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["# Changelog\n", "## Unreleased\n", "## Unreleased\n\n### Added\n\n## 0.1.0\n\n- Old.\n"],
)
def test_changelog_without_changes_is_rejected(text: str) -> None:
    with pytest.raises(ReleaseError, match="Unreleased"):
        changelog.unreleased(text)


def test_release_only_adds_heading_to_changelog() -> None:
    before = f"{CHANGES}\n## 0.1.0 - 2026-11-01\n\n- Old.\n"
    after = changelog.release(before, Version(0, 2, 0), DAY)
    assert changelog.released_versions(after) == [Version(0, 2, 0), Version(0, 1, 0)]
    assert after.replace("\n## 0.2.0 - 2026-11-26\n", "", 1) == before


def test_all_files_name_current_version() -> None:
    assert {named for _, named in version.named_versions(ROOT)} == {authsvc.__version__}


def test_bill_of_materials_is_valid_and_reproducible() -> None:
    bill = sbom.bill_of_materials(LOCK, Version(1, 2, 3), DAY)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    again = [
        sys.executable,
        "-c",
        f"""
from datetime import date
from deploy.release import sbom, version
lock = open("deploy/requirements.lock").read()
print(sbom.bill_of_materials(lock, version.Version(1, 2, 3), date({DAY:%Y, %-m, %-d})), end="")
""",
    ]
    assert subprocess.check_output(again, cwd=ROOT, text=True) == bill


def test_bill_of_materials_is_complete() -> None:
    bill = json.loads(sbom.bill_of_materials(LOCK, Version(1, 2, 3), DAY))
    pinned = {line.split(" ")[0] for line in LOCK.splitlines() if "==" in line}
    assert {f"{part['name']}=={part['version']}" for part in bill["components"]} == pinned
    hashes = sum(len(part["externalReferences"][0]["hashes"]) for part in bill["components"])
    assert hashes == LOCK.count("--hash=sha256:")
    needs = {node["ref"]: node.get("dependsOn", []) for node in bill["dependencies"]}
    direct = LOCK.count("authsvc (pyproject.toml)")
    assert len(needs["authsvc@1.2.3"]) == direct
    (aiohttp,) = (ref for ref in needs if ref.startswith("pkg:pypi/aiohttp@"))
    assert any(ref.startswith("pkg:pypi/yarl@") for ref in needs[aiohttp])


def package(**more: object) -> dict[str, object]:
    return {"name": "idna", "version": "3.11"} | more


def test_audit_lists_findings() -> None:
    found = package(vulns=[{"id": "GHSA-1", "fix_versions": ["3.12"]}])
    unknown = {"name": "own", "skip_reason": "not found"}
    report = json.dumps({"dependencies": [found, package(vulns=[]), unknown]})
    assert audit.findings(report) == (["own: not found", "idna 3.11: GHSA-1, fixed in 3.12"], 2)


def test_audit_without_lookups_fails() -> None:
    report = json.dumps({"dependencies": [{"name": "idna", "skip_reason": "not found"}]})
    with pytest.raises(ReleaseError, match="nothing was audited"):
        audit.findings(report)
