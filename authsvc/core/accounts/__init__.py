"""Owns accounts: creation, verification of the address, reading, changes, export and deletion.

Entry classes: `Accounts`, `UserAdministration`, `AccountListing`, `EmailVerification`,
`AccountData`, `AccountDeletion`, `PasswordChange` and `PasswordReset`.
"""
