"""Owns `authsvc retention`: shows what will be removed, and when."""

from authsvc.cli.groups import Commands
from authsvc.cli.output import ConfigOption, JsonOption, SecretsOption, emit
from authsvc.cli.work import with_use_cases
from authsvc.config.durations import text

app = Commands(help="Show which data will be removed, and when.")


@app.callback()
def _group() -> None:
    """Show which data will be removed, and when."""


@app.command()
def plan(
    config: ConfigOption = None, secrets: SecretsOption = None, as_json: JsonOption = False
) -> None:
    """Show how long each kind of data is kept, how much is due, and when more will be.

    Nothing is removed: the running service does that, about every retention.interval. The periods
    count from when something has ended, expired or happened.
    """
    plans = with_use_cases(config, secrets, lambda use: use.retention.plan())
    rows = [
        {
            "kind": each.kind,
            "kept_for": "for ever" if each.period is None else text(each.period),
            "due": each.due,
            "oldest": each.oldest_time,
            "next": each.next_time,
        }
        for each in plans
    ]
    emit(rows, as_json=as_json, title="Retention")
