"""Owns the table of what each migration since 0.1.0 does to the tables that were there before it.

`store/migrations/effects.json` was measured on a real server: `python -m
tests.support.migration_effects --write` writes it, and a test holds it to the migrations.
"""

import json
from collections.abc import Mapping, Sequence
from importlib import resources

from authsvc.models.upgrades import Lock, StatementEffects, TableEffect, Work


def shipped_effects() -> Mapping[int, Sequence[StatementEffects]]:
    """Return the effects of the statements of each migration, by its number."""
    file = resources.files("authsvc.store") / "migrations" / "effects.json"
    return read_effects(file.read_text())


def read_effects(text: str) -> Mapping[int, Sequence[StatementEffects]]:
    """Return the effects that a text like `effects.json` describes."""
    return {
        int(version): [
            StatementEffects(
                statement["statement"],
                {
                    table: TableEffect(Lock(effect["lock"]), Work(effect["work"]))
                    for table, effect in statement["tables"].items()
                },
            )
            for statement in statements
        ]
        for version, statements in json.loads(text).items()
    }
