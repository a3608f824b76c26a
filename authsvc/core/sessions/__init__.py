"""Owns sessions: opening, validation, refresh, listing and ending.

Entry classes: `SessionOpening`, `SessionValidation`, `SessionRefresh`, `SessionEnding` and
`SessionListing`.
"""
