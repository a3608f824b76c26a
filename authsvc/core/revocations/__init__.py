"""Owns how a process learns of revocations, and the caches that they clear.

Entry classes: `RevocationReader`, `Doorbell` and `RevocableCache`.
"""
