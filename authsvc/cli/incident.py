"""Owns `authsvc incident`: the steps that an operator takes in an incident."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import typer

from authsvc.cli.arguments import network_of, span_of, time_of
from authsvc.cli.calls import cli_call
from authsvc.cli.confirming import YesOption, confirm
from authsvc.cli.groups import Commands
from authsvc.cli.incident_evidence import export
from authsvc.cli.incident_options import (
    DryRunOption,
    ReasonOption,
    conclude,
    duration_of,
    reason_of,
)
from authsvc.cli.keys import NowOption, conclude_rotation
from authsvc.cli.output import (
    ConfigOption,
    JsonOption,
    SecretsOption,
    emit,
    fail,
    to_json,
)
from authsvc.cli.work import with_use_cases
from authsvc.core.use_cases import UseCases
from authsvc.models.incidents import IncidentEvent, LoginFreeze, LoginMethod, PasswordSelection
from authsvc.models.sessions import SessionSelection
from authsvc.models.signing import KeyState, SigningKeyInfo

app = Commands(help="See what was detected, and take the steps of an incident.")
app.command("export")(export)

_LONGEST_FREEZE = timedelta(days=30)
_HOUR = timedelta(hours=1)


@app.command()
def status(
    since: Annotated[
        str,
        typer.Option("--since", help="Since when: a time, or how long ago, such as 2h."),
    ] = "24h",
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=1_000, help="The most events to list.")
    ] = 100,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Show what is frozen, what was detected, and which steps were taken."""
    start = time_of(since, "--since", datetime.now(UTC))

    async def work(use: UseCases) -> tuple[Sequence[LoginFreeze], Sequence[IncidentEvent]]:
        steps = use.incident_steps
        return await steps.freezes(), await steps.recent(start, limit + 1)

    freezes, events = with_use_cases(config, secrets, work)
    is_cut_off, events = len(events) > limit, events[-limit:]
    frozen = [_shown(freeze) for freeze in freezes]
    past = [
        {
            "time": event.occur_time,
            "event": event.type,
            "by": event.caller,
            "detail": dict(event.detail) if as_json else _pairs(event.detail),
        }
        for event in events
    ]
    if as_json:
        print(to_json({"freezes": frozen, "events": past}, indent=2))
    else:
        emit(frozen, as_json=False, title="Frozen")
        emit(past, as_json=False, title="Detections and steps")
    if is_cut_off:
        print("There are earlier ones: raise --limit", file=sys.stderr)


@app.command()
def freeze(
    *,
    reason: ReasonOption,
    methods: Annotated[
        list[LoginMethod] | None,
        typer.Option("--method", help="What to freeze (repeatable); without it, everything."),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            "--network",
            help="Freeze it for this network or address only, such as 198.51.100.0/24.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Freeze all methods, for everybody.")
    ] = False,
    length: Annotated[str, typer.Option("--for", help="For how long: up to 30d.")] = "1h",
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Refuse logins for a time, on every replica within a second; sessions go on.

    A login begun with a frozen method can't be completed with a second factor either. To freeze the
    same again changes how long it lasts.
    """
    if everything == bool(methods or network):
        fail("name what to freeze with --method or --network, or else --everything")
    wanted, chosen = reason_of(reason), tuple(dict.fromkeys(methods or ()))
    duration, subnet = duration_of(length, "--for", _LONGEST_FREEZE), network_of(network)
    what = _what(chosen, subnet)

    def count(use: UseCases) -> Any:
        return use.incident_steps.count_logins(chosen, subnet, _HOUR)

    plan = {
        "methods": chosen,
        "network": subnet,
        "for": duration,
        "logins_in_the_last_hour": with_use_cases(config, secrets, count),
    }
    seen = f"{plan['logins_in_the_last_hour']} in the last hour would have been refused"
    if dry_run:
        conclude(plan, f"Would freeze {what} for {length}: {seen}.", as_json=as_json)
        return
    confirm(f"Freeze {what} for {length}? Of logins and the like, {seen}.", yes=yes)
    made = with_use_cases(
        config,
        secrets,
        lambda use: use.incident_steps.freeze(cli_call(), chosen, subnet, duration, wanted),
    )
    conclude(
        _shown(made),
        f"{made.freeze_id}: {what} frozen until {made.expire_time:%Y-%m-%d %H:%M:%S} UTC.",
        as_json=as_json,
    )


@app.command()
def unfreeze(
    reason: ReasonOption,
    freeze_ids: Annotated[
        list[UUID] | None,
        typer.Argument(help="What to lift, as `incident status` shows it.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--everything", help="Lift all freezes.")] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Lift freezes: the logins are possible again on every replica within a second."""
    if everything == bool(freeze_ids):
        fail("name the freezes to lift, or else --everything")
    wanted = reason_of(reason)
    frozen = with_use_cases(config, secrets, lambda use: use.incident_steps.freezes())
    known = {one.freeze_id: one for one in frozen}
    unknown = [str(each) for each in freeze_ids or () if each not in known]
    if unknown:
        fail(f"no freeze in force has the id {unknown[0]}")
    lifting = list(dict.fromkeys(freeze_ids or known))
    rows = [_shown(known[each]) for each in lifting]
    if dry_run:
        _list_freezes(rows, "Would be lifted", as_json=as_json)
        return
    if lifting:
        confirm(f"Lift {len(lifting)} of {len(known)} freezes?", yes=yes)
        rows = [
            _shown(one)
            for one in with_use_cases(
                config,
                secrets,
                lambda use: use.incident_steps.unfreeze(cli_call(), lifting, wanted),
            )
        ]
    _list_freezes(rows, "Lifted", as_json=as_json)


@app.command("end-sessions")
def end_sessions(
    *,
    reason: ReasonOption,
    everything: Annotated[
        bool, typer.Option("--everything", help="End all sessions of all users.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Opened since then: a time, or how long ago, such as 2h."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Opened before then: as for --since.")
    ] = None,
    network: Annotated[
        str | None, typer.Option("--network", help="Opened from this address or network.")
    ] = None,
    method: Annotated[
        str,
        typer.Option("--method", help="Whose user logged in with it (RFC 8176): pwd, otp, fed."),
    ] = "",
    users: Annotated[
        list[str] | None,
        typer.Option("--user", help="Of this user (repeatable): an e-mail address or id."),
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """End the sessions that meet all criteria, on every replica within a second.

    If it is interrupted, what has ended stays ended, and the same command ends the rest.
    """
    wanted = reason_of(reason)
    start, end = span_of(("--since", since), ("--until", until), datetime.now(UTC))
    criteria = SessionSelection(
        created_after=start,
        created_before=end,
        network=network_of(network),
        authentication_method=method,
    )
    if everything == bool(criteria != SessionSelection() or users):
        fail("say which sessions to end, or else --everything")

    async def select(use: UseCases) -> tuple[SessionSelection, int]:
        found = [(await use.account_listing.find(user)).user_id for user in users or ()]
        selection = replace(criteria, user_ids=found)
        return selection, await use.bulk_session_ending.count(selection)

    selection, count = with_use_cases(config, secrets, select)
    if dry_run:
        text = f"Would end the selected sessions: {count}."
        conclude({"session_count": count}, text, as_json=as_json)
        return
    confirm(f"End the selected sessions: {count}?", yes=yes)
    ended = with_use_cases(
        config,
        secrets,
        lambda use: use.incident_steps.end_sessions(cli_call(), selection, wanted),
    )
    conclude({"session_count": ended}, f"Ended sessions: {ended}.", as_json=as_json)


@app.command("require-password-change")
def require_password_change(
    *,
    reason: ReasonOption,
    everything: Annotated[
        bool, typer.Option("--everything", help="For all users who have a password.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Who logged in since then: a time, or how long ago."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Who logged in before then: as for --since.")
    ] = None,
    network: Annotated[
        str | None, typer.Option("--network", help="Who logged in from this address or network.")
    ] = None,
    users: Annotated[
        list[str] | None,
        typer.Option("--user", help="This user (repeatable): an e-mail address or id."),
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Make users set a new password by a code in their mail; their sessions end.

    Until then their password lets nobody in. Users are selected by name, or by when and from where
    they logged in. If it is interrupted, the same command does the rest.
    """
    wanted = reason_of(reason)
    start, end = span_of(("--since", since), ("--until", until), datetime.now(UTC))
    criteria = PasswordSelection(since=start, until=end, network=network_of(network))
    by_login = criteria != PasswordSelection()
    if [everything, by_login, bool(users)].count(True) != 1:
        fail("select users by --user, by when or from where they logged in, or by --everything")

    async def select(use: UseCases) -> tuple[PasswordSelection, int]:
        found = [(await use.account_listing.find(user)).user_id for user in users or ()]
        selection = replace(criteria, user_ids=found)
        return selection, await use.incident_steps.count_passwords(selection)

    selection, count = with_use_cases(config, secrets, select)
    if dry_run:
        text = f"Users who would have to change their password: {count}."
        conclude({"user_count": count}, text, as_json=as_json)
        return
    confirm(f"Make users change their password: {count}?", yes=yes)
    changed = with_use_cases(
        config,
        secrets,
        lambda use: use.incident_steps.require_password_change(cli_call(), selection, wanted),
    )
    text = f"Users who have to change their password: {changed}."
    conclude({"user_count": changed}, text, as_json=as_json)


@app.command("rotate-key")
def rotate_key(
    reason: ReasonOption,
    now: NowOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Sign with another key; tokens signed before stay valid until they expire.

    As soon as it has been published for tokens.key_publish_lead, which it usually has.
    """
    wanted = reason_of(reason)
    active = _key(with_use_cases(config, secrets, lambda use: use.signing_keys.list()), "active")
    if dry_run:
        text = f"Would retire {active.key_id}, which goes on verifying what it signed."
        conclude({"key_id": active.key_id, "state": active.state}, text, as_json=as_json)
        return
    confirm(f"Replace the signing key {active.key_id}?", yes=yes)
    key = with_use_cases(
        config, secrets, lambda use: use.incident_steps.rotate_key(cli_call(), wanted, now=now)
    )
    conclude_rotation(key, as_json=as_json)


@app.command("revoke-key")
def revoke_key(
    reason: ReasonOption,
    key_id: Annotated[
        str, typer.Argument(help="The key, as `keys list` shows it, or `active`, or `prepared`.")
    ],
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Reject all tokens that a key signed, everywhere within a second; this can't be undone.

    If it is the active key, the prepared one replaces it. Sessions go on: their clients refresh.
    """
    wanted = reason_of(reason)
    infos = with_use_cases(config, secrets, lambda use: use.signing_keys.list())
    found = _key(infos, key_id)
    signs_since = None if found.state is KeyState.PREPARED else found.activate_time
    row = {"key_id": found.key_id, "state": found.state, "signs_since": signs_since}
    if dry_run:
        text = f"Would revoke {found.key_id} ({found.state}): what it signed would be rejected."
        conclude(row, text, as_json=as_json)
        return
    confirm(f"Revoke {found.key_id} ({found.state})? This can't be undone.", yes=yes)
    if not with_use_cases(
        config,
        secrets,
        lambda use: use.incident_steps.revoke_key(cli_call(), found.key_id, wanted),
    ):
        fail(f"{found.key_id} is already revoked")
    conclude(row | {"state": "revoked"}, f"{found.key_id} is revoked.", as_json=as_json)


def _key(infos: Sequence[SigningKeyInfo], wanted: str) -> SigningKeyInfo:
    """Return the key with this id, or the active or the prepared one."""
    named = wanted in {KeyState.ACTIVE, KeyState.PREPARED}
    found = [info for info in infos if wanted == (info.state if named else info.key_id)]
    if not found:
        fail(f"no key is {wanted}: start the service" if named else f"no key has the id {wanted}")
    return found[0]


def _what(methods: Sequence[LoginMethod], network: str | None) -> str:
    what = ", ".join(method.value for method in methods) or "everything"
    return f"{what} from {network}" if network else what


def _shown(freeze: LoginFreeze) -> dict[str, Any]:
    return {
        "freeze_id": freeze.freeze_id,
        "methods": [method.value for method in freeze.methods] or ["everything"],
        "network": freeze.network,
        "since": freeze.create_time,
        "until": freeze.expire_time,
        "by": freeze.created_by,
        "reason": freeze.reason,
    }


def _list_freezes(rows: Sequence[dict[str, Any]], title: str, *, as_json: bool) -> None:
    emit(rows, as_json=as_json, title=title)


def _pairs(detail: Any) -> str:
    return " ".join(f"{name}={value}" for name, value in detail.items())
