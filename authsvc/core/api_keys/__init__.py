"""Owns API keys: created, listed, revoked and validated.

Entry classes: `ApiKeys` and `ApiKeyValidation`.
"""
