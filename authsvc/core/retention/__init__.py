"""Owns the removal of data whose retention period is over.

Entry classes: `Retention` and `UnverifiedAccounts`.
"""
