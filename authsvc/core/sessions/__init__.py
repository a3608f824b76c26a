"""Owns sessions: opened, validated, refreshed, listed and ended.

Entry classes: `SessionOpening`, `SessionValidation`, `SessionRefresh`, `SessionEnding` and
`SessionListing`.
"""
