"""Owns accounts: creation, verification of the address, reading, changes, export and deletion.

Entry classes: `Accounts`, `EmailVerification`, `AccountData`, `AccountDeletion`, `PasswordChange`
and `PasswordReset`.
"""
