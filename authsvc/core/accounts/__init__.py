"""Owns accounts: creation, reading, changes, export and deletion.

Entry classes: `Accounts`, `AccountData`, `AccountDeletion`, `PasswordChange`, `PasswordReset`.
"""
