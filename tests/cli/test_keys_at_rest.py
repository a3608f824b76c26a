"""Keys of the keyring and peppers in the shell: making, reporting on, and changing them."""

import asyncio
import base64
import json
from typing import Any

from authsvc.app.build import open_parts
from authsvc.cli.output import settings_of
from authsvc.config import KeySettings
from authsvc.core.lib.sealing import read_header
from authsvc.dev.workspace import Workspace
from authsvc.models.calls import Call
from authsvc.models.sealing import SIGNING_KEYS
from authsvc.store import sealed_values
from tests.cli.conftest import Command

CALL = Call("request-1", "spiffe://authsvc.test/issuer")


def key(command: Command, key_id: str) -> Any:
    result = command("keys", "generate", "--id", key_id)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def write(workspace: Workspace, name: str, keys: list[Any]) -> None:
    (workspace.secrets / f"secrets__{name}").write_text(json.dumps(keys))


def read(workspace: Workspace, name: str) -> list[Any]:
    keys: list[Any] = json.loads((workspace.secrets / f"secrets__{name}").read_text())
    return keys


def make_signing_key(workspace: Workspace) -> None:
    async def work() -> None:
        async with open_parts(settings_of(workspace.config, workspace.secrets)) as parts:
            await parts.use.signing_keys.rotate(CALL)

    asyncio.run(work())


def headers(workspace: Workspace) -> set[str]:
    """Return the ids of the keys that signing keys are sealed under."""

    async def work() -> set[str]:
        async with (
            open_parts(settings_of(workspace.config, workspace.secrets)) as parts,
            parts.database.connection() as connection,
        ):
            found = await sealed_values.list_headers(connection, SIGNING_KEYS)
            return {header.key_id for raw in found if (header := read_header(raw))}

    return asyncio.run(work())


def test_generated_key_is_random_and_valid(command: Command) -> None:
    one, other = key(command, "a"), key(command, "a")
    assert one["id"] == "a"
    assert one["key"] != other["key"]
    assert len(base64.b64decode(one["key"])) == 32
    KeySettings.model_validate(one)
    KeySettings.model_validate(json.loads(command("keys", "generate").stdout))
    result = command("keys", "generate", "--id", "Not An Id")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


def test_key_is_changed_and_removed(command: Command, workspace: Workspace) -> None:
    make_signing_key(workspace)
    [old] = read(workspace, "keyring")
    new = key(command, "new")
    write(workspace, "keyring", [new, old])

    dry = json.loads(command("keys", "reseal", "--dry-run", "--json").stdout)
    assert {row["column"]: row["due"] for row in dry}["signing_keys.sealed_key"] == 2
    assert headers(workspace) == {old["id"]}
    report = json.loads(command("keys", "status", "--json").stdout)
    assert report["removable_keys"] == []
    assert report["keep_older_keys_for"] == "7d"
    assert report["keys"] == [
        {
            "column": "signing_keys.sealed_key",
            "key": old["id"],
            "algorithm": "AES-256-GCM",
            "state": "older",
            "values": 2,
            "percent": 100.0,
        }
    ]
    assert f"secrets.keyring: {old['id']} is still needed." in command("keys", "status").stdout

    result = command("keys", "reseal", "--json")
    assert result.exit_code == 0, result.output
    first, *others = json.loads(result.stdout)
    expected = {"resealed": 2, "left": 0, "unreadable": 0, "missing_keys": []}
    assert first == {"column": "signing_keys.sealed_key"} | expected
    assert {row["resealed"] for row in others} == {0}
    assert headers(workspace) == {"new"}
    assert json.loads(command("keys", "status", "--json").stdout)["removable_keys"] == [old["id"]]
    told = command("keys", "status").stdout
    assert f"{old['id']} protects nothing stored. Remove it 7d after" in told

    write(workspace, "keyring", [new])
    assert command("keys", "list").exit_code == 0
    events = json.loads(command("audit", "tail", "--json").stdout.splitlines()[-1])
    assert events["type"] == "key.reseal"


def test_value_under_a_missing_key_is_named(command: Command, workspace: Workspace) -> None:
    make_signing_key(workspace)
    [old] = read(workspace, "keyring")
    write(workspace, "keyring", [key(command, "new")])
    result = command("keys", "reseal")
    assert result.exit_code == 3
    assert result.stderr == (
        "error: signing_keys.sealed_key: values that can't be opened: 2; keys that secrets.keyring"
        f" lacks: {old['id']}\n"
    )
    assert "missing" in command("keys", "status").stdout


def test_algorithm_is_changed(command: Command, workspace: Workspace) -> None:
    make_signing_key(workspace)
    with workspace.config.open("a") as stream:
        stream.write('\n[encryption]\nalgorithm = "ChaCha20-Poly1305"\n')
    result = command("keys", "reseal", "--batch-size", "1")
    assert result.exit_code == 0, result.output
    [usage] = json.loads(command("keys", "status", "--json").stdout)["keys"]
    assert (usage["algorithm"], usage["state"]) == ("ChaCha20-Poly1305", "newest")


def test_new_pepper_that_is_not_the_first_yet_is_not_called_removable(
    command: Command, workspace: Workspace
) -> None:
    [first] = read(workspace, "peppers")
    write(workspace, "peppers", [first, key(command, "next")])
    told = " ".join(command("keys", "status").stdout.split())
    assert (
        "next protects nothing. Remove it, unless it is new and is still to become the first."
        in told
    )


def test_status_tells_the_share_of_each_pepper(command: Command, workspace: Workspace) -> None:
    def create(email: str) -> None:
        result = command(
            "users", "create", email, "--password-stdin", input="Correct-Horse-42-Staple\n"
        )
        assert result.exit_code == 0, result.output

    create("a@example.test")
    old = read(workspace, "peppers")
    write(workspace, "peppers", [key(command, "new"), *old])
    create("b@example.test")
    report = json.loads(command("keys", "status", "--json").stdout)
    shares = {each["key"]: (each["state"], each["percent"]) for each in report["peppers"]}
    assert shares == {old[0]["id"]: ("older", 50.0), "new": ("newest", 50.0)}
    assert f"secrets.peppers: {old[0]['id']} is still needed." in command("keys", "status").stdout
