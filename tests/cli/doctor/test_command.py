"""`authsvc doctor` prints its findings, and says by its exit code whether there are errors."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from authsvc.cli.doctor.table import CHECKS
from authsvc.dev.workspace import Workspace
from tests.cli.conftest import Command, plain

# What does not depend on a service that runs, nor on the provider of the demo.
QUIET = ("--skip", "service", "--skip", "providers", "--skip", "jwks", "--skip", "database.rights")
# The server of the tests is not durable, and the machine may be busy.
TESTED = [*QUIET, "--skip", "database.durability", "--skip", "database.latency"]
TESTED += ["--skip", "revocations", "--skip", "machine"]


def report(text: str) -> Any:
    return json.loads(text)


@pytest.fixture(autouse=True)
def _free_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRPC", "HTTP"):
        monkeypatch.setenv(f"AUTHSVC_{name}__ADDRESS", "127.0.0.1:0")


@pytest.mark.fast
def test_good_deployment_ends_with_code_0(command: Command) -> None:
    result = command("doctor", "--json", *TESTED)
    found = report(result.stdout)
    assert [each for each in found["findings"] if each["level"] in {"error", "warning"}] == [
        each for each in found["findings"] if each["text"] == "there is no signing key yet"
    ]
    assert result.exit_code == 0
    assert {each["check"] for each in found["findings"]} >= {"settings.valid", "database.version"}
    assert found["counts"]["ok"] == len([1 for each in found["findings"] if each["level"] == "ok"])


def test_warnings_are_errors_only_if_strict(command: Command) -> None:
    # There is no signing key before the first start.
    quick = ("--only", "secrets.signing")
    assert command("doctor", *quick).exit_code == 0
    result = command("doctor", *quick, "--strict")
    assert result.exit_code == 1
    assert "warning  secrets.signing  there is no signing key yet" in plain(result.stdout)
    assert "→ the first start of the service makes one" in plain(result.stdout)
    assert plain(result.stdout).endswith("ok: 1, warning: 1, error: 0, skipped: 0\n")


def test_database_that_is_down_ends_with_code_1_and_no_secret(
    command: Command, workspace: Workspace
) -> None:
    workspace.set_database("postgresql://a:hidden-password@127.0.0.1:1/b")
    result = command("doctor", "--json", *QUIET)
    assert result.exit_code == 1
    found = report(result.stdout)
    errors = [each for each in found["findings"] if each["level"] == "error"]
    assert [each["check"] for each in errors] == ["database.reachable"]
    assert errors[0]["remedy"]
    keyring = json.loads((workspace.secrets / "secrets__keyring").read_text())
    for secret in ("hidden-password", keyring[0]["key"]):
        assert secret not in result.output
    skipped = {each["check"] for each in found["findings"] if each["level"] == "skipped"}
    assert skipped >= {"database.version", "secrets.usable", "revocations.freshness"}


def test_invalid_settings_are_told_line_by_line(command: Command, workspace: Workspace) -> None:
    with workspace.config.open("a") as stream:
        stream.write("\n[no_such_section]\nx = 1\n")
    result = command("doctor", "--json")
    assert result.exit_code == 1
    found = report(result.stdout)["findings"]
    assert [(each["check"], each["text"]) for each in found] == [
        ("settings.valid", "no_such_section: no such setting")
    ]


def test_note_on_the_sources_is_a_warning(command: Command, workspace: Workspace) -> None:
    (workspace.secrets / "no_section").write_text("x")
    result = command("doctor", "--json", "--only", "machine.files")
    assert result.exit_code == 0
    assert report(result.stdout)["counts"]["warning"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "nothing"), "there is no check or subject nothing; the subjects are settings"),
        (("--timeout", "0s"), "--timeout: expected more than 0"),
        (("--timeout", "soon"), "--timeout: "),
        (("--cert", "a.crt"), "--cert and --key need each other"),
        (("--target", "authsvc"), '"authsvc" is not a valid address; expected "host:port"'),
        (("--url", "ftp://a"), '"ftp://a" is not an address of metrics'),
    ],
)
def test_wrong_options_are_refused(command: Command, arguments: tuple[str, ...], said: str) -> None:
    result = command("doctor", *arguments)
    assert result.exit_code == 1
    assert said in plain(result.output)


def test_list_names_every_check(command: Command) -> None:
    result = command("doctor", "--list", "--json")
    assert [each["check"] for each in report(result.stdout)] == [each.name for each in CHECKS]
    text = command("doctor", "--list", "--only", "tls").stdout
    assert re.findall(r"^[a-z.]+", text, re.MULTILINE) == [
        each.name for each in CHECKS if each.subject == "tls"
    ]


def test_every_check_has_a_test_that_breaks_it() -> None:
    """A finding that is bad is asserted of each, by its name, in one of these files."""
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*_checks.py"))
    bad = re.findall(r'Level\.(?:ERROR|WARNING)[^"]*"([a-z]+\.[a-z]+)"', tests)
    bad += re.findall(r'levels\(\s*"([a-z]+\.[a-z]+)"[^)]*\)+ == \[Level\.(?:ERROR|WARNING)', tests)
    bad += re.findall(r'examine\(\s*"([a-z]+\.[a-z]+)"', tests)
    bad += re.findall(r'only\(level, "([a-z]+\.[a-z]+)"', tests)
    # Who may read the metrics is told, and never wrong.
    missing = {each.name for each in CHECKS} - set(bad) - {"settings.exposure"}
    assert missing == set()
