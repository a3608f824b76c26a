"""Owns logins: one module for each way to log in, and the completion shared by all.

Entry classes: `PasswordLogin`, `CodeLogin`, `PasskeyLogin`, `OAuthLogin`, `MfaVerification`
and `LoginCompletion`.
"""
