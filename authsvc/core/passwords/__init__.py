"""Owns passwords: which may be chosen, and how they are hashed and compared.

Entry classes: `PasswordPolicy` and `PasswordHasher`.
"""
