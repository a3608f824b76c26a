"""Owns logins: one module for each way to log in, and the beginning and the end shared by all.

Entry classes: `Logins`, `PasswordLogin`, `CodeLogin`, `PasskeyLogin`, `OAuthLogin`,
`MfaVerification` and `LoginCompletion`.
"""
