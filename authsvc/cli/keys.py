"""Owns `authsvc keys`: the keys that sign access tokens, and those that protect what is stored."""

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer

from authsvc.cli.calls import cli_call
from authsvc.cli.confirming import YesOption, confirm
from authsvc.cli.groups import Commands
from authsvc.cli.incident_options import conclude
from authsvc.cli.keys_at_rest import generate, reseal, status
from authsvc.cli.output import ConfigOption, JsonOption, SecretsOption, emit, emit_one
from authsvc.cli.work import with_use_cases
from authsvc.core.use_cases import UseCases
from authsvc.errors import StoreUnavailable
from authsvc.models.signing import KeyState, SigningKeyInfo

NowOption = Annotated[
    bool,
    typer.Option(
        "--now",
        help="Don't wait: tokens signed by the new key are refused by verifiers that have cached"
        " the keys, for up to max-age (five minutes as shipped).",
    ),
]

app = Commands(help="Manage the keys that sign access tokens, and those that protect secrets.")
app.command("generate")(generate)
app.command("status")(status)
app.command("reseal")(reseal)


@app.command("list")
def list_keys(
    config: ConfigOption = None, secrets: SecretsOption = None, as_json: JsonOption = False
) -> None:
    """List the signing keys and their states.

    prepared: published, signs next, from the time shown. active: signs. retired: only verifies,
    until its last token has expired. revoked: neither signs nor verifies.
    """
    infos, notes = with_use_cases(config, secrets, _list)
    rows = [
        {
            "key_id": info.key_id,
            "algorithm": info.algorithm,
            "state": info.state,
            "created": info.create_time,
            "activated": None if info.state is KeyState.PREPARED else info.activate_time,
            "signs_from": info.activate_time if info.state is KeyState.PREPARED else None,
            "retired": info.retire_time,
            "revoked": info.revoke_time,
            "expires": info.expire_time,
        }
        for info in infos
    ]
    emit(rows, as_json=as_json, title="Signing keys")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


async def _list(use: UseCases) -> tuple[Sequence[SigningKeyInfo], Sequence[str]]:
    """Return the keys, and what is to be said of the HSM."""
    infos = await use.signing_keys.list()
    try:
        orphans = await use.signing_keys.find_orphans()
    except StoreUnavailable as error:
        return infos, [error.message]
    return infos, [
        f"the HSM holds the key {orphan}, which is none of these: remove it there, unless a"
        " rotation is in progress or another service shares the token"
        for orphan in orphans
    ]


@app.command()
def rotate(
    now: NowOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign with the next key as soon as it has been published for tokens.key_publish_lead.

    That is at once, unless a key was replaced or revoked a moment ago; otherwise this says when.
    Tokens signed before stay valid until they expire.
    """
    key = with_use_cases(config, secrets, lambda use: use.signing_keys.rotate(cli_call(), now=now))
    conclude_rotation(key, as_json=as_json)


def conclude_rotation(key: SigningKeyInfo, *, as_json: bool) -> None:
    """Print what came of a rotation; `key` is the one that signs, or will sign."""
    row = {"key_id": key.key_id, "state": key.state, "activate_time": key.activate_time}
    text = f"{key.key_id} is now the signing key."
    if key.state is KeyState.PREPARED and key.activate_time:
        text = f"{key.key_id} will be the signing key from {_time(key.activate_time)} on."
    conclude(row, text, as_json=as_json)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key to revoke, as `keys list` shows it.")],
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Revoke a key: all tokens that it signed are rejected everywhere within a second.

    For a compromised key. If it is the active one, the prepared key replaces it at once. To revoke
    a key that is already revoked is no error.
    """
    confirm(f"Revoke {key_id} and all tokens that it signed? This can't be undone.", yes=yes)

    async def work(use: UseCases) -> tuple[str, datetime | None]:
        await use.signing_keys.revoke(cli_call(), key_id)
        await use.signing_keys.refresh()
        active = use.signing_keys.active_info()
        return active.key_id, use.signing_keys.refused_until(active)

    active_key_id, refused_until = with_use_cases(config, secrets, work)
    if as_json:
        row = {"revoked_key_id": key_id, "active_key_id": active_key_id}
        emit_one(row | {"refused_until": refused_until}, as_json=True)
        return
    print(f"{key_id} is revoked; {active_key_id} signs.")
    if refused_until is not None:
        print(
            "That key is new: verifiers that have cached the keys refuse its tokens until"
            f" {_time(refused_until)} at the latest."
        )


def _time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"
