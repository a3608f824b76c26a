"""Owns accounts: created, read, changed, exported and deleted.

Entry classes: `Accounts`, `AccountData`, `AccountDeletion`, `PasswordChange`, `PasswordReset`.
"""
