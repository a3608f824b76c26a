"""Owns the removal of what has been kept long enough.

Entry classes: `Retention` and `UnverifiedAccounts`.
"""
