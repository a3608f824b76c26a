"""Owns the names of statements in traces: what they do to which tables, such as `SELECT users`."""

import re
from functools import lru_cache

# All statements of the service, and some that are put together.
_CACHE_SIZE = 1_024
_MAX_PARTS = 6
_NOISE = re.compile(r"--[^\n]*|\b(?i:EXTRACT)\s*\([^()]*\)")
_PART = re.compile(
    r"\b(INSERT) INTO (\w+)|\b(UPDATE) (?:ONLY )?(\w+)\s+(?:AS )?(?:\w+ )?SET\b"
    r"|\b(DELETE) FROM (?:ONLY )?(\w+)|\b(?:FROM|JOIN)\s+(\w+)\b(?! ?\()"
)
_WITH = re.compile(
    r"(?:\bWITH(?: RECURSIVE)?|,)\s+(\w+)(?: \([\w, ]+\))? AS (?:NOT |MATERIALIZED )*\("
)
_FIRST = re.compile(r"\w+")
_FUNCTION = re.compile(r"\bFROM\s+(\w+)")


@lru_cache(_CACHE_SIZE)
def summary(statement: str) -> str:
    """Return what a statement does, for people: its operations and tables, without any value."""
    text = _NOISE.sub("", statement)
    own = set(_WITH.findall(text))
    parts = dict.fromkeys(
        f"{insert or update or delete or 'SELECT'} {table}"
        for insert, into, update, updated, delete, deleted, read in _PART.findall(text)
        if (table := into or updated or deleted or read) not in own
    )
    if parts:
        return " ".join([*parts][:_MAX_PARTS])
    first, function = _FIRST.search(text), _FUNCTION.search(text)
    return " ".join(found[found.lastindex or 0] for found in (first, function) if found)
