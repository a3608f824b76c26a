"""Owns what a process knows of revocations, and the caches that they clear.

Entry classes: `RevocationListener` and `RevocableCache`.
"""
