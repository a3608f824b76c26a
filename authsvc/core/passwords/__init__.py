"""Owns passwords: which may be chosen, and how they are hashed and verified.

Entry classes: `PasswordAcceptance` and `PasswordHasher`.
"""
