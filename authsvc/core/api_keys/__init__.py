"""Owns API keys: creation, listing, revocation and validation.

Entry classes: `ApiKeys` and `ApiKeyValidation`.
"""
