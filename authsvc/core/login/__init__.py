"""Owns logins: one module for each way to log in, and the completion that all share.

Entry classes: `PasswordLogin`, `CodeLogin`, `PasskeyLogin`, `OAuthLogin`, `MfaVerification`
and `LoginCompletion`.
"""
