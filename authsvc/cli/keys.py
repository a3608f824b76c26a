"""Owns `authsvc keys`: the keys that sign access tokens, and those that protect what is stored."""

from typing import Annotated

import typer

from authsvc.cli.calls import cli_call
from authsvc.cli.confirming import YesOption, confirm
from authsvc.cli.groups import Commands
from authsvc.cli.keys_at_rest import generate, reseal, status
from authsvc.cli.output import ConfigOption, JsonOption, SecretsOption, emit, emit_one
from authsvc.cli.work import with_use_cases
from authsvc.core.use_cases import UseCases

app = Commands(help="Manage the keys that sign access tokens, and those that protect secrets.")
app.command("generate")(generate)
app.command("status")(status)
app.command("reseal")(reseal)


@app.command("list")
def list_keys(
    config: ConfigOption = None, secrets: SecretsOption = None, as_json: JsonOption = False
) -> None:
    """List the signing keys and their states.

    prepared: published, signs next. active: signs. retired: only verifies, until its last token has
    expired. revoked: neither signs nor verifies.
    """
    infos = with_use_cases(config, secrets, lambda use: use.signing_keys.list())
    rows = [
        {
            "key_id": info.key_id,
            "algorithm": info.algorithm,
            "state": info.state,
            "created": info.create_time,
            "activated": info.activate_time,
            "retired": info.retire_time,
            "revoked": info.revoke_time,
            "expires": info.expire_time,
        }
        for info in infos
    ]
    emit(rows, as_json=as_json, title="Signing keys")


@app.command()
def rotate(
    config: ConfigOption = None, secrets: SecretsOption = None, as_json: JsonOption = False
) -> None:
    """Start signing with a new key; tokens signed before stay valid until they expire."""
    key_id = with_use_cases(config, secrets, lambda use: use.signing_keys.rotate(cli_call()))
    if as_json:
        emit_one({"active_key_id": key_id}, as_json=True)
    else:
        print(f"{key_id} is now the signing key.")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key to revoke, as `keys list` shows it.")],
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Revoke a key: all tokens that it signed are rejected everywhere within a second.

    For a compromised key. If it is the active one, a new key replaces it. To revoke a key that is
    already revoked is no error.
    """
    confirm(f"Revoke {key_id} and all tokens that it signed? This can't be undone.", yes=yes)

    async def work(use: UseCases) -> str:
        await use.signing_keys.revoke(cli_call(), key_id)
        await use.signing_keys.refresh()
        return use.signing_keys.active_info().key_id

    active_key_id = with_use_cases(config, secrets, work)
    if as_json:
        emit_one({"revoked_key_id": key_id, "active_key_id": active_key_id}, as_json=True)
    else:
        print(f"{key_id} is revoked; {active_key_id} signs.")
